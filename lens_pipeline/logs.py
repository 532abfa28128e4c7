"""Logging of our own processes: text for people, or one JSON object a line."""

import datetime as dt
import json
import logging
import re
import sys
from contextvars import ContextVar

# Of the request that is being answered, in the HTTP app.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# Attribute of a record, a mapping: what is a field of its own in JSON.
FIELDS = "lens_fields"

# C0, DEL and C1, and what some viewers take for the end of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, FIELDS, {})
        if current := request_id.get():
            entry["request_id"] = current
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message and request; then the traceback.

    Only a record's first line begins at the margin: a message, which may hold what strangers wrote,
    cannot pass for a record of its own.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        current = request_id.get()
        return super().formatMessage(record) + (f" [{current}]" if current else "")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\r\n", "\n")
        return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text).replace("\n", "\n    ")


def configure(log_format: str, log_level: str) -> None:
    """Send every log line of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    # It tells of every plugin at each start.
    logging.getLogger("alembic").setLevel(logging.WARNING)
