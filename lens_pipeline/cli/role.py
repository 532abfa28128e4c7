"""Commands for one process without `lens up`: run, health.

`lens health` runs every few seconds, so `run` alone imports what is slow.
"""

import os
import sys
from contextlib import closing

import click

from lens_pipeline import settings
from lens_pipeline.core.endpoints import Endpoints, resolve, running_up
from lens_pipeline.core.files import prepare_home
from lens_pipeline.core.ports import CODE_PORT, require_free
from lens_pipeline.core.startup import load_settings
from lens_pipeline.engine import liveness
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor import roles


@click.command()
@click.argument("role", type=click.Choice(roles.ROLES))
def run(role: roles.Role) -> None:
    """Be one process of the pipeline, in the foreground, until SIGTERM.

    code: answers what sensors and schedules want; dagster: the Dagster UI; daemon: ticks sensors
    and schedules and launches runs, one for the whole site; api: the pages and the HTTP API.
    Workers are `lens worker`.
    """
    from lens_pipeline.engine.instance import find_config_dir

    loaded = load_settings()
    become(role, loaded, resolve(loaded))
    _require_port(role, loaded)
    arguments = roles.arguments(role, loaded, find_config_dir())
    sys.stdout.flush()
    os.execv(sys.executable, (sys.executable, "-m", *arguments))


def become(role: str, loaded: Settings, endpoints: Endpoints) -> None:
    """Prepare this process and check its databases. Raises StackError, CatalogError."""
    from lens_pipeline.derivatives.pipeline import connect
    from lens_pipeline.engine.dagster_storage.storage import carry_over, require_current_tables
    from lens_pipeline.engine.instance import write_instance

    prepare_home(loaded.resolved_home)
    require_current_tables(endpoints.dagster_url)
    if role == "daemon":
        carry_over(endpoints.dagster_url)
    if role != "dagster":  # which reads no rows of the application
        with closing(connect(loaded, endpoints).catalog) as catalog:  # a worker is about to fork
            catalog.check()
    write_instance(loaded)
    os.environ.update(roles.environment(loaded))
    if not running_up(loaded.resolved_home):
        liveness.note_role(loaded.resolved_home, role)


def _require_port(role: roles.Role, loaded: Settings) -> None:
    served = {
        "code": (loaded.code_port or CODE_PORT, loaded.code_bind),
        "dagster": (loaded.dagster_port, loaded.bind),
        "api": (loaded.api_port, loaded.bind),
    }
    if role in served:
        require_free(f"LENS_{role.upper()}_PORT", *served[role])


@click.command()
@click.argument("role", type=click.Choice(list(liveness.CHECKS)), required=False)
def health(role: str | None) -> None:
    """Say whether the process of this machine lives: exit status 0, or 1 and why not.

    ROLE: by default every process of `lens up`, or what `lens run` or `lens worker` was started as
    here last. That database, broker and store work is another question: `lens doctor` and
    /api/health answer it.
    """
    loaded, _ = settings.load()
    asked = [role] if role else liveness.started_roles(loaded.resolved_home)
    problems = [problem for one in asked if (problem := liveness.problem_of(one, loaded))]
    for problem in problems:
        print(f"lens: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{', '.join(asked)} {'lives' if len(asked) == 1 else 'live'}")
