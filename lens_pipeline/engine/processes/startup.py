"""What each process of Dagster does first: signals, logs, and the check of Dagster's names."""

import logging
import signal
import sys
import warnings
from types import ModuleType

import dagster as dg

from lens_pipeline import settings
from lens_pipeline.core import telemetry
from lens_pipeline.core.logs import configure
from lens_pipeline.engine import upstream

logger = logging.getLogger("lens")
_RUNS = logging.getLogger("dagster.run")
_TICKS = logging.getLogger("dagster.tick")


def begin(*groups: str) -> None:
    """Prepare a process that is about to import these groups of `upstream.CONTRACT`.

    Ends it with one line and status 2 if the installed Dagster is not supported.
    """
    handle_interrupts()
    try:
        set_up_logging()
        upstream.check("storage", *groups)
    except upstream.UnknownDagster as error:
        logger.critical("%s", error)
        sys.exit(2)


def handle_interrupts() -> None:
    """Let SIGINT, and with it SIGTERM, end this process in order, however it was begun.

    A script's background process (`nohup lens up &`) ignores SIGINT, and Dagster handles SIGTERM in
    the same way.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def set_up_logging() -> None:
    """Have this process, and the ticks and runs in it, log by our settings.

    Raises UnknownDagster.
    """
    loaded, _ = settings.load()
    configure(loaded.log_format, loaded.log_level)
    telemetry.begin_reports(loaded)
    # Dagster says that something is beta whenever it loads our definitions.
    warnings.filterwarnings("ignore", module="dagster")
    upstream.check("logging")
    from dagster._core.definitions import instigation_logger
    from dagster._core.execution import context_creation_job

    instigation_logger.create_console_logger = _tick_logger  # pyright: ignore[reportPrivateImportUsage]
    context_creation_job.default_system_loggers = _run_loggers  # pyright: ignore[reportPrivateImportUsage]


def keep_logging(module: ModuleType) -> None:
    """Have this module of Dagster leave the logs of its process as they are."""
    module.configure_loggers = _do_nothing  # pyright: ignore[reportAttributeAccessIssue]


def _do_nothing(*_: object, **__: object) -> None:
    """Instead of Dagster's set-up."""


def _tick_logger(_name: str, level: str | int) -> logging.Logger:
    """Of sensors and schedules."""
    _TICKS.setLevel(level)
    return _TICKS


def _run_loggers(_: object) -> list[tuple[dg.LoggerDefinition, dict[str, str]]]:
    return [(_run_logger, {})]


@dg.logger
def _run_logger(_: dg.InitLoggerContext) -> logging.Logger:
    _RUNS.setLevel(logging.INFO)
    return _RUNS
