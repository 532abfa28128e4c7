"""Makes supervisord write each line of all logs as a JSON object."""

import contextlib
import datetime as dt
import json
from typing import Any

import supervisor.dispatchers
import supervisor.options

_LONGEST_LINE = 1 << 20
_PLAIN = "%(message)s"


def as_object(line: bytes, program: str) -> bytes:
    """JSON objects stay as they are; an empty line gives nothing."""
    text = line.decode("utf-8", "replace").rstrip()
    if not text.strip():
        return b""
    if text.startswith("{"):
        with contextlib.suppress(ValueError):
            json.loads(text)
            return text.encode() + b"\n"
    return _entry("info", program, text).encode()


def _entry(level: str, name: str, message: str) -> str:
    now = dt.datetime.now(dt.UTC).isoformat()
    return json.dumps({"time": now, "level": level, "logger": name, "message": message}) + "\n"


class JsonOutput(supervisor.dispatchers.POutputDispatcher):
    """Splits a program's output into lines."""

    _rest = b""

    def _log(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        super()._log(b"".join(as_object(line, self.process.config.name) for line in lines))

    def close(self) -> None:
        if self._rest:
            self._log(b"\n")
        super().close()


class _JsonFormat(str):
    """Of supervisord's own log."""

    __slots__ = ()

    def __mod__(self, values: Any) -> str:
        return _entry(values["levelname"].lower(), "supervisord", values["message"])


_handle_file = supervisor.options.loggers.handle_file


def _handle_json_file(logger: Any, filename: str, fmt: str, *args: Any, **kwargs: Any) -> None:
    chosen = fmt if fmt == _PLAIN else _JsonFormat(fmt)
    _handle_file(logger, filename, chosen, *args, **kwargs)


def write_json() -> None:
    supervisor.dispatchers.POutputDispatcher = JsonOutput
    supervisor.options.loggers.handle_file = _handle_json_file
