"""`lens health`: for health checks, which run every few seconds; imports nothing that is slow."""

import sys

import click

from lens_pipeline import settings
from lens_pipeline.stack import signs_of_life


@click.command()
@click.argument("role", type=click.Choice(list(signs_of_life.CHECKS)), required=False)
def health(role: str | None) -> None:
    """Say whether the process of this machine lives: exit status 0, or 1 and why not.

    ROLE: by default what `lens run` or `lens worker` was started as here last. That database,
    broker and store work is another question: `lens doctor` and /api/health answer it.
    """
    loaded, _ = settings.load()
    role = role or signs_of_life.noted_role(loaded.resolved_home)
    problem = signs_of_life.problem_of(role, loaded)
    if problem is not None:
        print(f"lens: {problem}", file=sys.stderr)
        sys.exit(1)
    print(f"{role} lives")
