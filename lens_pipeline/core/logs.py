"""Logging of our own processes: text for people, or one JSON object a line."""

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

# Of the request that is being answered, in the HTTP app; in a run, of the one that asked for it.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
# What else is being worked on: fields of every record meanwhile.
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))

# Attribute of a record, a mapping: what is a field of its own in JSON.
FIELDS = "lens_fields"
# Dagster's, of records that belong to a run.
_DAGSTER = "dagster_meta"

logger = logging.getLogger(__name__)

# Says of each file what became of it. Only workers let it: commands say so themselves.
FILES = logging.getLogger("lens_pipeline.files")

# C0, DEL and C1, and what some viewers take for the end of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Until the end of the block every record of this context has these ids as fields."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def ids() -> dict[str, str]:
    """The ids of what is being worked on now."""
    current = request_id.get()
    return {**({"request_id": current} if current else {}), **_bound.get()}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, ids, and the traceback if any."""

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
    """Time, level, logger, message and request; then the traceback.

    Only a record's first line begins at the margin: a message, which may hold what strangers wrote,
    cannot pass for a record of its own.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        current = " ".join(ids().values())
        return super().formatMessage(record) + (f" [{current}]" if current else "")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\r\n", "\n")
        return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text).replace("\n", "\n    ")


def _of_run(record: logging.LogRecord) -> dict[str, str]:
    """What Dagster says of the run that a record belongs to."""
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
    """Send every log line of this process to standard error; warnings and tracebacks, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # They tell at each start of every plugin, and where credentials were found.
    for name in ("alembic", "botocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # These tell whole addresses, in which there may be secrets.
    for name in ("urllib3", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def speaks_json() -> bool:
    """Whether `configure` made this process write JSON."""
    return any(isinstance(h.formatter, JsonFormatter) for h in logging.getLogger().handlers)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    logger.critical("uncaught: %s", kind.__name__, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is not SystemExit and arguments.exc_value is not None:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
