"""Request bodies, read in full before a handler runs."""

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from lens_pipeline.web.errors import ApiError

# A refused body is read that far: a client that still sends would miss the answer.
_DRAINED_BYTES = 8 * 1024 * 1024
_DRAINED_SECONDS = 5.0


class Body:
    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        length = headers.get("content-length", "")
        self._declared = int(length) if length.isdigit() else 0
        self._expected = "transfer-encoding" in headers or self._declared > 0
        # Only the first receive makes the client send it.
        self._is_held_back = headers.get("expect", "").lower() == "100-continue"

    @property
    def is_expected(self) -> bool:
        return self._expected

    async def whole(self, limit: int, seconds: float) -> Receive:
        """A `receive` that replays the body, read before. Raises as `read`."""
        return self.replay(await self.read(limit, seconds))

    async def read(self, limit: int, seconds: float) -> bytes:
        """The body.

        Raises ApiError 413 over `limit` bytes, 408 after `seconds`, and ClientDisconnect.
        """
        if self._declared > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while self._expected:
                    body += await self._part()
                    if len(body) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            raise ApiError(408, "too_slow", f"the body took longer than {seconds:g} s") from None
        return bytes(body)

    def paced(self, seconds: float) -> Receive:
        """A `receive` for a long body. It raises ApiError 408 after `seconds` without a part."""

        async def part() -> Message:
            if not self._expected:
                return await self._receive()
            try:
                async with asyncio.timeout(seconds):
                    body = await self._part()
            except TimeoutError:
                raise ApiError(408, "too_slow", f"nothing came for {seconds:g} s") from None
            return {"type": "http.request", "body": body, "more_body": self._expected}

        return part

    async def drain(self) -> None:
        """Read and drop the rest. Raises ClientDisconnect."""
        if self._is_held_back:
            return
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAINED_SECONDS):
                while self._expected and drained < _DRAINED_BYTES:
                    drained += len(await self._part())

    async def _part(self) -> bytes:
        self._is_held_back = False
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._expected = message.get("more_body", False)
        return message.get("body", b"")

    def replay(self, body: bytes) -> Receive:
        """A `receive` that gives `body`, which has been read."""
        handed_on = False

        async def replay() -> Message:
            nonlocal handed_on
            if handed_on:
                return await self._receive()
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        return replay


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "too_large", f"the body may have {limit} bytes")
