"""Commands that prepare and examine an installation: migrate, doctor."""

import sys

import click

from lens_pipeline import doctor as examination
from lens_pipeline.cli.session import load_settings, print_json, say
from lens_pipeline.pipeline import connect
from lens_pipeline.stack.services import running


@click.command()
def migrate() -> None:
    """Create the application's tables where absent, and Dagster's."""
    from lens_pipeline.engine.storage import prepare

    loaded = load_settings()
    with running(loaded, broker=False, command="migrate", report=say) as endpoints:
        created = connect(loaded, endpoints).catalog.migrate()
        prepare(endpoints.dagster_url)
    print(f"created: {', '.join(created)}" if created else "every table is there already")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check everything the pipeline needs, one line each, with the fix."""
    checks = examination.examine(load_settings())
    if as_json:
        print_json({"checks": checks})
    else:
        for check in checks:
            print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['message']}")
    sys.exit(0 if all(check["ok"] for check in checks) else 1)
