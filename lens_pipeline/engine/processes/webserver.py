"""`dagster-webserver`, behind guards and a protocol that its caller gives."""

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Callable
from importlib import metadata

import uvicorn
from dagster import DagsterInstance
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG

from lens_pipeline.engine.processes import startup

# As Dagster's own command.
_STATEMENT_MS = 15_000
# Dagster's default for an open page.
_POLL_MS = 2000


def serve(guard: Callable[[ASGIApp], ASGIApp], protocol: type[asyncio.Protocol]) -> None:
    """Serve until SIGINT or SIGTERM.

    Dagster's command would need a patch for guards, and nothing would tell if it no longer fits.
    """
    parser = argparse.ArgumentParser(prog="dagster-webserver", add_help=False)
    parser.add_argument("-h", "--host", required=True)
    parser.add_argument("-p", "--port", type=int, required=True)
    parser.add_argument("-w", "--workspace", required=True)
    arguments = parser.parse_args()
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    startup.watch_code_server()
    # uvicorn's lines go where all others do.
    LOGGING_CONFIG["loggers"] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_MS, pool_recycle=-1, max_overflow=0)
        target = WorkspaceFileTarget(paths=[arguments.workspace])
        with WorkspaceProcessContext(
            instance, target, version=metadata.version("dagster-webserver")
        ) as context:
            app = create_app_from_workspace_process_context(context, live_data_poll_rate=_POLL_MS)
            uvicorn.run(
                guard(app),
                host=arguments.host,
                port=arguments.port,
                http=protocol,
                log_level="warning",
                lifespan="off",
            )
