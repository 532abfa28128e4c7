"""`lens health`: for health checks, which run every few seconds; imports nothing that is slow."""

import sys

import click

from lens_pipeline import settings
from lens_pipeline.engine import liveness


@click.command()
@click.argument("role", type=click.Choice(list(liveness.CHECKS)), required=False)
def health(role: str | None) -> None:
    """Say whether the process of this machine lives: exit status 0, or 1 and why not.

    ROLE: by default what `lens run` or `lens worker` was started as here last. That database,
    broker and store work is another question: `lens doctor` and /api/health answer it.
    """
    loaded, _ = settings.load()
    role = role or liveness.noted_role(loaded.resolved_home)
    problem = liveness.problem_of(role, loaded)
    if problem is not None:
        print(f"lens: {problem}", file=sys.stderr)
        sys.exit(1)
    print(f"{role} lives")
