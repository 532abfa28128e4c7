"""The start of Dagster's processes: signals, logs, and the check of Dagster's names."""

import logging
import signal
import sys
import warnings
from types import ModuleType

import dagster as dg

from lens_pipeline import settings
from lens_pipeline.core import telemetry
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.core.logs import configure
from lens_pipeline.engine import upstream
from lens_pipeline.engine.processes import usage

logger = logging.getLogger("lens")
_RUNS = logging.getLogger("dagster.run")
_TICKS = logging.getLogger("dagster.tick")
# Dagster's second was a tenth of what a stack at rest takes: each look opens a connection.
_WATCH_SECONDS = 3.0


def begin(role: str, *groups: str) -> None:
    """Check these groups of `upstream.CONTRACT`. Exits with status 2 if one is not supported."""
    handle_interrupts()
    try:
        set_up_logging()
        upstream.check("storage", *groups)
    except upstream.UnknownDagster as error:
        logger.critical("%s", error)
        sys.exit(2)
    loaded, _ = settings.load()
    usage.publish(role, resolve(loaded, broker=False).dagster_url)


def handle_interrupts() -> None:
    """Undo what a script's background process (`nohup lens up &`) inherits: it ignores SIGINT.

    Dagster handles SIGTERM in the same way.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def set_up_logging() -> None:
    """Log, also ticks and runs, by our settings. Raises UnknownDagster."""
    loaded, _ = settings.load()
    configure(loaded.log_format, loaded.log_level)
    telemetry.begin_reports(loaded)
    # Dagster warns of betas whenever it loads our definitions.
    warnings.filterwarnings("ignore", module="dagster")
    upstream.check("logging")
    from dagster._core.definitions import instigation_logger
    from dagster._core.execution import context_creation_job

    instigation_logger.create_console_logger = _tick_logger  # pyright: ignore[reportPrivateImportUsage]
    context_creation_job.default_system_loggers = _run_loggers  # pyright: ignore[reportPrivateImportUsage]


def keep_logging(module: ModuleType) -> None:
    """Replace the module's own set-up."""
    module.configure_loggers = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]


def watch_code_server() -> None:
    """Look for another code server, one that was started again, less often than Dagster does."""
    from dagster._grpc import server_watcher

    server_watcher.WATCH_INTERVAL = _WATCH_SECONDS


def _tick_logger(_name: str, level: str | int) -> logging.Logger:
    _TICKS.setLevel(level)
    return _TICKS


def _run_loggers(_: object) -> list[tuple[dg.LoggerDefinition, dict[str, str]]]:
    return [(_run_logger, {})]


@dg.logger
def _run_logger(_: dg.InitLoggerContext) -> logging.Logger:
    _RUNS.setLevel(logging.INFO)
    return _RUNS
