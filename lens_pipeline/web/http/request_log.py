"""One line of log and an id for each request."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lens_pipeline.core.logs import FIELDS, request_id

logger = logging.getLogger(__name__)

_HEADER = "X-Request-ID"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNPRINTABLE = re.compile(r"[^!-~]")
_LONGEST_PATH = 500
# nginx's code for a client that left before the answer.
_CLIENT_GONE = 499


class RequestLog:
    """The outermost ASGI middleware. It keeps a client's valid X-Request-ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist(_HEADER)
        this = given[0] if len(given) == 1 and _ID.fullmatch(given[0]) else uuid.uuid4().hex
        token = request_id.set(this)
        begun = time.perf_counter()
        status, sent, is_whole = _CLIENT_GONE, 0, False

        async def answer(message: Message) -> None:
            nonlocal status, sent, is_whole
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[_HEADER] = this
            await send(message)
            sent += len(message.get("body", b""))
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, answer)
        except Exception:
            # After a whole answer, `errors` has logged it; uvicorn would close the connection.
            if not is_whole:
                raise
        finally:
            _log(scope, status, sent, (time.perf_counter() - begun) * 1000)
            request_id.reset(token)


def _log(scope: Scope, status: int, sent: int, milliseconds: float) -> None:
    fields = {
        "method": scope["method"],
        "path": _UNPRINTABLE.sub("?", scope["raw_path"].decode("latin-1"))[:_LONGEST_PATH],
        "status": status,
        "bytes": sent,
        "milliseconds": round(milliseconds, 1),
    }
    logger.info("%s %s %d %d B %.1f ms", *fields.values(), extra={FIELDS: fields})
