"""The processes of the product that are not workers: command line, environment, files.

`lens up` supervises all of them; `lens run ROLE` becomes one of them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import private_directory, write_private
from lens_pipeline.settings import Settings

Role = Literal["code", "dagster", "daemon", "api"]
ROLES: tuple[Role, ...] = get_args(Role)

# What `lens run` takes for a code server's port if none is set: all roles must agree on it.
CODE_PORT = 4000


def arguments(role: Role, settings: Settings, config_dir: Path) -> tuple[str, ...]:
    """The command line of a role; `config_dir` holds `workspace.yaml`."""
    python = (sys.executable, "-m")
    workspace = ("-w", str(config_dir / "workspace.yaml"))
    match role:
        case "code":
            return (
                *(*python, "lens_pipeline.engine.processes.code_server"),
                *("--module-name", "lens_pipeline.definitions"),
                *("--host", settings.code_bind, "--port", str(settings.code_port or CODE_PORT)),
            )
        case "dagster":
            address = ("-h", settings.bind, "-p", str(settings.dagster_port))
            return (*python, "lens_pipeline.web.dagster_ui", *address, *workspace)
        case "daemon":
            return (*python, "lens_pipeline.engine.processes.daemon", *workspace)
        case "api":
            return (*python, "lens_pipeline.web")


def environment(settings: Settings) -> Mapping[str, str]:
    """What every process needs besides the settings."""
    home = settings.resolved_home
    return {
        "LENS_HOME": str(home),
        "LENS_CODE_HOST": settings.code_host,
        "LENS_CODE_PORT": str(settings.code_port or CODE_PORT),
        "DAGSTER_HOME": str(home / "dagster"),
        # One insert for a run's events instead of one each.
        "DAGSTER_EVENT_BATCH_SIZE": "100",
        # The backfill compares all rows in one tick, some ten thousand a second: with Dagster's own
        # limit of a minute nothing would be found in a library of a million. This does for ten.
        "DAGSTER_SCHEDULE_GRPC_TIMEOUT_SECONDS": "1200",
        # Nobody calls the code server any more once the daemon has stopped.
        "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "1",
        # Whom uvicorn believes who a client is: by itself whatever is on this machine, so that
        # whoever guesses at the Dagster UI's password would count as somebody else each time.
        "FORWARDED_ALLOW_IPS": ",".join(settings.trusted_proxies),
        "PYTHONUNBUFFERED": "1",
    }


def write_instance(settings: Settings) -> Path:
    """Put our `dagster.yaml` where Dagster looks for it; returns that directory.

    In one step: several processes with one LENS_HOME may do so at the same time. Raises StackError
    as `find_config_dir` does.
    """
    directory = private_directory(settings.resolved_home / "dagster")
    ours = (find_config_dir() / "dagster.yaml").read_text(encoding="utf-8")
    write_private(directory / "dagster.yaml", ours)
    return directory


def find_config_dir() -> Path:
    """Where `dagster.yaml` and `workspace.yaml` are: in a checkout or with the installed package.

    Raises StackError: neither has them.
    """
    checkout = Path(__file__).parents[2]
    installed = Path(sys.prefix) / "share" / "lens-pipeline"
    for directory in (checkout, installed):
        if (directory / "dagster.yaml").is_file() and (directory / "workspace.yaml").is_file():
            return directory
    raise StackError(
        f"dagster.yaml and workspace.yaml are neither in {checkout} nor in {installed}:"
        " install lens-pipeline again"
    )
