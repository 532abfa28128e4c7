"""Request bodies: small, and here in time, before anything works on them."""

import asyncio

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from lens_pipeline.web.errors import ApiError

# What is read and thrown away of a body that nobody wants: a client that still sends would lose the
# answer with the connection.
_DRAINED_BYTES = 8 * 1024 * 1024
_DRAINED_SECONDS = 5.0


def is_sent(headers: Headers) -> bool:
    """Whether a body comes with the request."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def received(receive: Receive, headers: Headers, limit: int, seconds: float) -> Receive:
    """Read the whole body; returns what hands it on.

    Raises ApiError: it has more than `limit` bytes (413), or has not come after so many seconds
    (408). Raises ClientDisconnect: nobody is there any more.
    """
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                more = await _more(receive, body)
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise ApiError(408, "too_slow", f"the body took longer than {seconds:g} s") from None
    return _replayed(bytes(body), receive)


async def drain(receive: Receive) -> None:
    """Read on for a little while, for the answer to arrive. Raises ClientDisconnect."""
    drained, part = 0, bytearray()
    try:
        async with asyncio.timeout(_DRAINED_SECONDS):
            while drained < _DRAINED_BYTES:
                more = await _more(receive, part)
                drained += len(part)
                part.clear()
                if not more:
                    return
    except TimeoutError:
        return


async def _more(receive: Receive, body: bytearray) -> bool:
    """Add what has come; whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body += message.get("body", b"")
    return message.get("more_body", False)


def _replayed(body: bytes, receive: Receive) -> Receive:
    handed_on = False

    async def replay() -> Message:
        nonlocal handed_on
        if handed_on:
            return await receive()
        handed_on = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "too_large", f"the body may have {limit} bytes")
