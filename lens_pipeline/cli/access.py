"""Commands about who may use the HTTP app: token."""

import datetime as dt

import click

from lens_pipeline.cli.session import load_settings, say
from lens_pipeline.settings import SettingsError

# Longer ids are in no table that we know of.
_LONGEST_ID = 200
_MOST_DAYS = 3650


@click.command()
@click.option("--user", metavar="ID", help="It sees the generations of this user alone.")
@click.option("--project", metavar="ID", help="It sees the masters of this project alone.")
@click.option(
    "--days", type=click.IntRange(1, _MOST_DAYS), help="Days until it expires; without it, never."
)
def token(user: str | None, project: str | None, days: int | None) -> None:
    """Print a token for the HTTP app that is bound to one user or project.

    It works for the API (Authorization: Bearer) and at /login. It is kept nowhere and is made from
    LENS_API_TOKEN: the only way to revoke one before it expires is to change that, which revokes
    all of them and ends every login.
    """
    from lens_pipeline.web.access.caller import Caller
    from lens_pipeline.web.access.keys import signing_key
    from lens_pipeline.web.access.tokens import Tokens

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
