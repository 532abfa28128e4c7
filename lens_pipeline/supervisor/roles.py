"""Command lines and environment of Dagster's processes and the web server."""

import ctypes
import importlib
import warnings
from pathlib import Path
from typing import Literal, get_args

from lens_pipeline.core.ports import CODE_PORT
from lens_pipeline.settings import Settings

Role = Literal["code", "dagster", "daemon", "api"]
ROLES: tuple[Role, ...] = get_args(Role)

# From glibc's malloc.h.
_M_ARENA_MAX = -8

# All that they share. A role's own module is run as `__main__`, and would be imported twice.
_SHARED = (
    "celery.events.receiver",
    "dagster._api.list_repositories",
    "dagster._api.snapshot_execution_plan",
    "dagster._api.snapshot_sensor",
    "dagster._cli.api",
    "dagster._core.instance.runs",
    "dagster._core.telemetry_upload",
    "dagster._daemon.cli",
    "dagster._daemon.sensor",
    "dagster._grpc.client",
    "dagster._grpc.server",
    "dagster._grpc.server_watcher",
    "dagster_graphql.schema.config_type_or_error",
    "dagster_webserver.app",
    "lens_pipeline.definitions",
    "lens_pipeline.engine.processes.run_queue_daemon",
    "lens_pipeline.engine.processes.sensor_ticks",
    "lens_pipeline.engine.processes.webserver",
    "lens_pipeline.web.app",
    "lens_pipeline.web.server",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "uvloop",
)


def import_shared() -> None:
    """Import, before a fork, what takes most of a start and of the memory of each role.

    Raises UnknownDagster.
    """
    from lens_pipeline.engine import upstream
    from lens_pipeline.engine.workers.worker import PRELOAD

    # Dagster warns of betas as it reads our definitions.
    warnings.filterwarnings("ignore", module="dagster")
    upstream.check(*upstream.CONTRACT)
    for module in (*_SHARED, *PRELOAD):
        importlib.import_module(module)
    # A heap for each thread would take 2 to 3 MiB more in each role.
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_ARENA_MAX, 1)


def arguments(
    role: Role, settings: Settings, config_dir: Path, code_address: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """A module and its arguments.

    `config_dir` holds `workspace.yaml`; `code_address`: where the code server listens.
    """
    port = str(settings.code_port or CODE_PORT)
    workspace = ("-w", str(config_dir / "workspace.yaml"))
    match role:
        case "code":
            return (
                "lens_pipeline.engine.processes.code_server",
                *("--module-name", "lens_pipeline.definitions"),
                *(code_address or ("--host", settings.code_bind, "--port", port)),
            )
        case "dagster":
            address = ("-h", settings.bind, "-p", str(settings.dagster_port))
            return ("lens_pipeline.web.dagster_ui", *address, *workspace)
        case "daemon":
            return ("lens_pipeline.engine.processes.daemon", *workspace)
        case "api":
            return ("lens_pipeline.web",)


def environment(settings: Settings) -> dict[str, str]:
    home = settings.resolved_home
    return {
        "LENS_HOME": str(home),
        "LENS_CODE_HOST": settings.code_host,
        "LENS_CODE_PORT": str(settings.code_port or CODE_PORT),
        "DAGSTER_HOME": str(home / "dagster"),
        "DAGSTER_EVENT_BATCH_SIZE": "100",
        # A tick with ten million rows, ten thousand a second; Dagster's limit is a minute.
        "DAGSTER_SCHEDULE_GRPC_TIMEOUT_SECONDS": "1200",
        # Else a backfill of the UI fails for good while the code server is started again.
        "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR": "1",
        # Nothing calls the code server after the daemon.
        "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "1",
        # By default uvicorn believes any local process about the client: each guess at the
        # Dagster UI's password would count as another client.
        "FORWARDED_ALLOW_IPS": ",".join(settings.trusted_proxies),
        "PYTHONUNBUFFERED": "1",
    }
