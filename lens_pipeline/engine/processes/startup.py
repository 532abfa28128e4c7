"""What Dagster's processes do first: log as ours do, and hear SIGTERM."""

import logging
import signal
import warnings
from types import ModuleType

import dagster as dg
from dagster._core.definitions import instigation_logger
from dagster._core.execution import context_creation_job

from lens_pipeline import settings
from lens_pipeline.core import telemetry
from lens_pipeline.core.logs import configure

_RUNS = logging.getLogger("dagster.run")
_TICKS = logging.getLogger("dagster.tick")


def log_as_ours(*modules: ModuleType) -> None:
    """Set up logging by our settings, which these modules of Dagster's do not change any more."""
    loaded, _ = settings.load()
    configure(loaded.log_format, loaded.log_level)
    telemetry.begin_reports(loaded)
    # Dagster says that something is beta whenever it loads our definitions.
    warnings.filterwarnings("ignore", module="dagster")
    for module in modules:
        module.configure_loggers = _leave_as_is  # pyright: ignore[reportAttributeAccessIssue]
    instigation_logger.create_console_logger = _tick_logger  # pyright: ignore[reportPrivateImportUsage]
    context_creation_job.default_system_loggers = _run_loggers  # pyright: ignore[reportPrivateImportUsage]


def _leave_as_is(*_: object, **__: object) -> None:
    """Instead of Dagster's set-up."""


def _tick_logger(_name: str, level: str | int) -> logging.Logger:
    """What a sensor or schedule says."""
    _TICKS.setLevel(level)
    return _TICKS


def _run_loggers(_: object) -> list[tuple[dg.LoggerDefinition, dict[str, str]]]:
    """What a run says."""
    return [(_run_logger, {})]


@dg.logger
def _run_logger(_: dg.InitLoggerContext) -> logging.Logger:
    _RUNS.setLevel(logging.INFO)
    return _RUNS


def hear() -> None:
    """Let SIGINT, and with it SIGTERM, end this process in order, however it was begun.

    Whatever a script begins in its background (`nohup lens up &`) ignores SIGINT, and Dagster
    takes its way to handle SIGTERM from that: only a kill would end it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
