"""uvicorn's HTTP/1.1, with limits for slow, endless and many clients."""

import contextlib
import json
import logging
import resource
import socket
import sys
import uuid
from asyncio import TimerHandle, Transport
from http import HTTPStatus
from urllib.parse import urlsplit

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lens_pipeline.core.logs import FIELDS

logger = logging.getLogger(__name__)

# nginx: 60 s, 32 KiB.
HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
# The answer to a stalled client holds memory.
STALL_SECONDS = 60.0
# With unfinished heads, they hold 256 MiB.
MOST_CONNECTIONS = 4096


def raise_connection_limit() -> None:
    """A shell's usual limit of 1024 open files is too low for many browsers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems report no limit but have one.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _most_connections() -> int:
    """Half of the open files are for all else, which fails in its own ways without one."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST_CONNECTIONS, files // 2)


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is too long or too slow, or whose client stalls.

    uvicorn has no such limits, accepts connections until no file can be opened, does not look at
    the host, keeps headers that come during an answer, and takes trailers for headers.
    """

    _timer: TimerHandle | None = None
    # Bytes since the parser last completed something.
    _loose_bytes = 0
    # Whether a head is awaited, and whether the parser is in one.
    _in_head = True
    _in_fields = False
    # uvicorn's `cycle` is the last request, not the answered one.
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        if sys.platform == "linux":
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALL_SECONDS * 1000)
            )
        if len(self.connections) > _most_connections():
            transport.write(_answer(503, "too_many_connections", "too many clients: try again"))
            transport.close()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        # uvicorn stops only the last request.
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head and self._timer is None:
            # uvicorn itself closes silent connections.
            self._expect_head()
        self._loose_bytes += len(data)
        super().data_received(data)
        if self._loose_bytes > HEAD_BYTES and not self.transport.is_closing():
            # This must not interrupt another answer.
            if self._in_head:
                problem = f"the head may have {HEAD_BYTES} bytes"
                self.transport.write(_answer(431, "head_too_large", problem))
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        answered = self._answered
        if answered is None or answered.response_complete or not answered.response_started:
            problem = "this is no request of HTTP/1.1"
            self.transport.write(_answer(400, "malformed_request", problem))
        self.transport.close()

    def on_message_begin(self) -> None:
        self._in_fields = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_fields:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = self._in_fields = False
        self._loose_bytes = 0
        self._cancel()
        self._check_host()
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._loose_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._in_head = not self.pipeline
        self._answered = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()

    def _check_host(self) -> None:
        """Raises ValueError, which leads to the answer 400, if the request names several hosts.

        A proxy in front may have looked at another one.
        """
        named = [_host(value) for name, value in self.headers if name == b"host"]
        # Most requests name no host in the URL.
        netloc = b"" if self.url.startswith(b"/") else urlsplit(self.url).netloc
        if len(named) > 1 or (netloc and named and _host(netloc) != named[0]):
            raise ValueError("several hosts")

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self.transport.close()


def _host(netloc: bytes) -> bytes:
    """Without the default port."""
    return netloc.lower().removesuffix(b":80")


def _answer(status: int, code: str, message: str) -> bytes:
    """An error answer, logged."""
    this = uuid.uuid4().hex
    logger.info("%d %s", status, code, extra={FIELDS: {"status": status, "request_id": this}})
    body = json.dumps({"error": code, "message": message, "request_id": this}).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
        f"X-Request-ID: {this}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
