"""Logs of all processes: text for people, or one JSON object a line."""

import datetime as dt
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType, TracebackType

# Of the HTTP request, also in its runs.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
# Other fields of every record.
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))

# A record's attribute with more fields for JSON.
FIELDS = "lens_fields"
# Dagster's attribute of a run's records.
_DAGSTER = "dagster_meta"

logger = logging.getLogger(__name__)

# One record a file. Silent in commands, which print results themselves.
FILES = logging.getLogger("lens_pipeline.files")

# C0, DEL, C1, and line ends of some viewers.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Add ids to the records of the block."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def ids() -> dict[str, str]:
    current = request_id.get()
    return {**({"request_id": current} if current else {}), **_bound.get()}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; times are UTC."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= _of_run(record) | ids() | getattr(record, FIELDS, {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Only a record's first line begins at the margin, so no message can pass for a record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        current = " ".join(ids().values())
        return super().formatMessage(record) + (f" [{current}]" if current else "")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\r\n", "\n")
        return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text).replace("\n", "\n    ")


def _of_run(record: logging.LogRecord) -> dict[str, str]:
    meta = getattr(record, _DAGSTER, None) or {}
    event = meta.get("dagster_event")
    asset = getattr(event, "asset_key", None)
    found = {
        "run_id": meta.get("run_id"),
        "job": meta.get("job_name"),
        "step": meta.get("step_key"),
        "event": getattr(event, "event_type_value", None),
        "asset": asset and asset.to_user_string(),
        "partition": getattr(event, "partition", None),
    }
    return {name: value for name, value in found.items() if value}


def configure(log_format: str, log_level: str) -> None:
    """Send all records, warnings and tracebacks to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The first two are noisy at each start; the others log whole addresses, with secrets.
    for name in ("alembic", "botocore", "urllib3", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def speaks_json() -> bool:
    return any(isinstance(h.formatter, JsonFormatter) for h in logging.getLogger().handlers)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    logger.critical("uncaught: %s", kind.__name__, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is not SystemExit and arguments.exc_value is not None:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
