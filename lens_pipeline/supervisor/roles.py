"""The processes of the product that are not workers: command line, environment, files.

`lens up` supervises all of them; `lens run ROLE` becomes one of them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from lens_pipeline.core.ports import CODE_PORT
from lens_pipeline.settings import Settings

Role = Literal["code", "dagster", "daemon", "api"]
ROLES: tuple[Role, ...] = get_args(Role)


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
