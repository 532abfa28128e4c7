"""Commands that prepare or check an installation: migrate, doctor, alert-test, token."""

import datetime as dt
import sys
from functools import partial

import click
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from lens_pipeline import settings
from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.cli.session import json_option, print_json
from lens_pipeline.core.logs import configure
from lens_pipeline.core.startup import load_settings, say
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.errors import LensError, first_line
from lens_pipeline.settings import Settings, SettingsError
from lens_pipeline.supervisor.services import running

_LONGEST_ID = 200


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit status 1 if there is work.")
@click.option(
    "--sql", "as_sql", is_flag=True, help="Change nothing; print the statements, for the owner."
)
@click.option(
    "--role", metavar="NAME", help="Grant what is needed to the role that runs the pipeline."
)
@click.option(
    "--masters", is_flag=True, help="Create those of masters, too, for a site without them."
)
def migrate(check: bool, as_sql: bool, role: str | None, masters: bool) -> None:
    """Create the application's tables where absent, and Dagster's; bring Dagster's up to date.

    Tables of the site are not altered; what is called lens_… is brought up to date. A site that
    has generations needs no others: without --masters those of masters are left out.
    """
    from lens_pipeline.engine.dagster_storage.storage import (
        create_database,
        create_tables,
        grant,
        upgrade_tables,
    )

    if check and (as_sql or role or masters):
        raise click.UsageError("--check stands alone")
    loaded = load_settings()
    if check:
        _say_what_is_to_do(loaded)
        return
    if as_sql:
        _print_statements(loaded, role, masters=masters)
        return
    granted: list[str] = []
    with running(loaded, broker=False, command="migrate", report=say) as endpoints:
        catalog = connect(loaded, endpoints).catalog
        done = catalog.migrate(masters=masters)
        _say_what_is_hidden(catalog)
        try:
            done += catalog.migrate_view()
        except CatalogError as error:
            # Only pages of the application read the view.
            say(f"lens: lens_generations is not created or updated: {error}")
        try:
            if create_database(endpoints.database_url, endpoints.dagster_url):
                done.append("the database of Dagster")
        except DBAPIError as error:
            raise CatalogError(
                f"Dagster's database cannot be created: {first_line(error)}: create it, and name it"
                " in LENS_DAGSTER_URL, or let the owner run what `lens migrate --sql` prints"
            ) from error
        create_tables(endpoints.dagster_url)
        upgraded = upgrade_tables(endpoints.dagster_url)
        if role:
            granted = catalog.grant(role)
            granted += grant(endpoints.database_url, endpoints.dagster_url, role)
    print(f"created: {', '.join(done)}" if done else "every table is there already")
    if upgraded:
        print("Dagster's tables were brought up to this version")
    for statement in granted:
        print(statement)


def _say_what_is_hidden(catalog: Catalog) -> None:
    for note in catalog.hidden_rows():
        say(f"lens: {note}")


def _print_statements(loaded: Settings, role: str | None, *, masters: bool) -> None:
    """For psql, or without its command `\\connect` for another client."""
    from lens_pipeline.engine.dagster_storage.storage import migration

    with running(loaded, broker=False, command="migrate", report=say) as endpoints:
        catalog = connect(loaded, endpoints).catalog
        _say_what_is_hidden(catalog)
        statements = catalog.migration(role, masters=masters)
        of_dagster = migration(endpoints.database_url, endpoints.dagster_url, role)
    if statements:
        print("\n".join(f"{one.strip()};" for one in ("BEGIN", *statements, "COMMIT")))
    if of_dagster and not of_dagster[0].startswith("CREATE DATABASE"):
        print(f"\\connect {make_url(endpoints.dagster_url).database}")
    for statement in of_dagster:
        print(f"{statement};")
    if not statements and not of_dagster:
        print("-- nothing to do")


def _say_what_is_to_do(loaded: Settings) -> None:
    """Exit with 1 if `lens migrate` has work."""
    from lens_pipeline.engine.dagster_storage.storage import require_current_tables

    to_do = []
    with running(loaded, broker=False, command="migrate", report=say) as endpoints:
        catalog = connect(loaded, endpoints).catalog
        tables = partial(require_current_tables, endpoints.dagster_url)
        for look in (catalog.check, tables):
            try:
                look()
            except LensError as error:
                to_do.append(str(error))
        notes = [] if to_do else [catalog.additions_note(), catalog.view_age_note()]
    to_do += [note for note in notes if note]
    print("\n".join(to_do) or "nothing to do: every table is there, and of this version")
    if to_do:
        sys.exit(1)


@click.command("alert-test")
def alert_test() -> None:
    """Send a test message to every address of LENS_ALERT_URLS, and say which took it."""
    from lens_pipeline.monitoring.alerts.delivery import connect_targets
    from lens_pipeline.monitoring.alerts.messages import trial

    loaded = load_settings()
    if not loaded.alert_urls:
        raise settings.SettingsError("LENS_ALERT_URLS is not set: there is nothing to test")
    has_failed = False
    for target in connect_targets(loaded.alert_urls):
        if target.send(trial(loaded)):
            print(f"ok   {target.name}: taken")
        else:
            has_failed = True
            print(f"FAIL {target.name}: {target.problem}")
    sys.exit(1 if has_failed else 0)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check everything the pipeline needs, one line each, with the fix."""
    from lens_pipeline.cli.doctor import examine

    loaded, warnings = settings.load()
    settings.export_foreign()
    configure(loaded.log_format, loaded.log_level)
    checks = examine(loaded, warnings)
    lines = [{"name": one.name, "ok": one.ok, "message": one.message} for one in checks]
    if as_json:
        print_json({"checks": lines})
    else:
        for line in lines:
            print(f"{'ok  ' if line['ok'] else 'FAIL'} {line['name']}: {line['message']}")
    sys.exit(0 if all(check.ok for check in checks) else 1)


@click.command()
@click.option("--user", metavar="ID", help="It sees the generations of this user alone.")
@click.option("--project", metavar="ID", help="It sees the masters of this project alone.")
@click.option(
    "--days", type=click.IntRange(1, 3650), help="Days until it expires; without it, never."
)
def token(user: str | None, project: str | None, days: int | None) -> None:
    """Print a token for the HTTP app that is bound to one user or project.

    It works for the API (Authorization: Bearer) and at /login. It is kept nowhere and is made from
    LENS_API_TOKEN: the only way to revoke one before it expires is to change that, which revokes
    all of them and ends every login.
    """
    from lens_pipeline.web.auth.caller import Caller
    from lens_pipeline.web.auth.keys import signing_key
    from lens_pipeline.web.auth.tokens import Tokens

    if (user is None) == (project is None):
        raise click.UsageError("give either --user or --project")
    if not 0 < len((user or project or "").strip()) <= _LONGEST_ID:
        raise click.UsageError(f"an id has 1 to {_LONGEST_ID} characters")
    loaded = load_settings()
    if loaded.api_token is None:
        raise SettingsError(
            "LENS_API_TOKEN is not set, so the HTTP app asks for no token: set it to a long random"
            " text where `lens up` runs and here"
        )
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days) if days else None
    tokens = Tokens(loaded.api_token, signing_key(loaded))
    print(tokens.scoped(Caller(user_id=user, project_id=project), until))
    say(f"lens: it expires {until:%Y-%m-%d %H:%M} UTC" if until else "lens: it never expires")
