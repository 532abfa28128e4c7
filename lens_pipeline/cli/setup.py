"""Commands that prepare and examine an installation: migrate, doctor."""

import sys
from dataclasses import asdict

import click
from sqlalchemy.exc import DBAPIError

from lens_pipeline import doctor as examination
from lens_pipeline import settings
from lens_pipeline.catalog import CatalogError
from lens_pipeline.cli.session import load_settings, print_json, say
from lens_pipeline.logs import configure
from lens_pipeline.pipeline import connect
from lens_pipeline.stack.services import running


@click.command()
def migrate() -> None:
    """Create the application's tables where absent, and Dagster's; bring Dagster's up to date."""
    from lens_pipeline.engine.storage import create_database, create_tables, upgrade_tables

    loaded = load_settings()
    with running(loaded, broker=False, command="migrate", report=say) as endpoints:
        catalog = connect(loaded, endpoints).catalog
        created = catalog.migrate()
        try:
            created += catalog.create_view()
        except CatalogError as error:
            # Only for pages that read it; everything else works without.
            say(f"lens: lens_generations is not created: {error}")
        try:
            if create_database(endpoints.database_url, endpoints.dagster_url):
                created.append("the database of Dagster")
        except DBAPIError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise CatalogError(
                f"Dagster's database cannot be created: {reason}: create it, and name it in"
                " LENS_DAGSTER_URL"
            ) from error
        create_tables(endpoints.dagster_url)
        upgraded = upgrade_tables(endpoints.dagster_url)
    print(f"created: {', '.join(created)}" if created else "every table is there already")
    if upgraded:
        print("Dagster's tables were brought up to this version")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check everything the pipeline needs, one line each, with the fix."""
    loaded, warnings = settings.load()
    settings.export_aws()
    configure(loaded.log_format, loaded.log_level)
    checks = examination.examine(loaded, warnings)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.message}")
    sys.exit(0 if all(check.ok for check in checks) else 1)
