"""Objects of the store as streamed answers to GET and HEAD."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from lens_pipeline.errors import DerivativeError, SourceMissing
from lens_pipeline.event_log.history import State
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import (
    Buffer,
    InvalidKey,
    ObjectReader,
    ObjectReplaced,
    ObjectStore,
)
from lens_pipeline.web.errors import ApiError
from lens_pipeline.web.http.conditional import Verdict, decide, entity_tag, http_date

logger = logging.getLogger(__name__)

# For addresses with a revision; private, as access is checked here.
IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"

# A reader holds about two chunks.
CHUNK_BYTES = 256 * 1024
# The reader for a stalled client holds memory.
STALL_SECONDS = 60.0
# These threads wait for disks and the network.
_WAITING_READS = CapacityLimiter(32)
# An object may be replaced between its look-up and the first byte.
ATTEMPTS = 3


def described(*content_types: str) -> dict[int | str, dict[str, Any]]:
    """Answers of an endpoint with `stream`, for the OpenAPI document."""
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in content_types}
    return {
        200: {"description": "The whole object.", "content": content},
        206: {"description": "The range that was asked for.", "content": content},
        304: {"description": "The client has it already."},
        412: {"description": "It is not the version that was asked for."},
        416: {"description": "The range begins behind the end."},
    }


def stream(
    store: ObjectStore,
    request: Request,
    key: str,
    *,
    cache_control: str = REVALIDATE,
    disposition: str | None = None,
) -> Response:
    """Blocks for the store. Raises ApiError 404, 412, 416; DerivativeError if the store fails."""
    for _ in range(ATTEMPTS - 1):
        with suppress(ObjectReplaced):
            return _try(store, request, key, cache_control, disposition)
    return _try(store, request, key, cache_control, disposition)


def picture_not_ready(state: State) -> ApiError:
    return ApiError(404, "not_ready", "there is no picture of it yet", status=state)


def is_web_address(text: str) -> bool:
    """Whether browsers may be sent there: other schemes may run code."""
    try:
        parts = urlsplit(text)
        # An impossible port raises ValueError.
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_whole and parts.scheme in ("http", "https") and text.isprintable()


def redirect(address: str) -> Response:
    """The app fetches no foreign files for clients. Raises ApiError 404: no usable address."""
    if not is_web_address(address):
        raise ApiError(404, "not_found", "its row names no file")
    return RedirectResponse(address.strip(), 307, {"Cache-Control": REVALIDATE})


def _try(
    store: ObjectStore, request: Request, key: str, cache_control: str, disposition: str | None
) -> Response:
    with ExitStack() as opened:
        reader = opened.enter_context(_open(store, key))
        info = reader.info
        headers = {
            "ETag": entity_tag(info),
            "Last-Modified": http_date(info.modified),
            "Accept-Ranges": "bytes",
            "Cache-Control": cache_control,
            "X-Content-Type-Options": "nosniff",
        }
        asked = {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
        part = decide(request.method, asked, info)
        if isinstance(part, Verdict):
            return _without_object(part, headers, info.bytes)
        headers["Content-Type"] = content_type_of(key)
        headers["Content-Length"] = str(part.end - part.start)
        if disposition is not None:
            headers["Content-Disposition"] = disposition
        if not part.whole:
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{info.bytes}"
        status = 200 if part.whole else 206
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        reader.select(part.start, part.end)
        opened.pop_all()
        return _Stream(reader, status, headers)


def _open(store: ObjectStore, key: str) -> ObjectReader:
    try:
        return store.open(key)
    except (SourceMissing, InvalidKey):
        raise ApiError(404, "not_found", "the store does not have this object any more") from None


def _without_object(verdict: Verdict, headers: dict[str, str], size: int) -> Response:
    if verdict is Verdict.NOT_MODIFIED:
        return Response(status_code=304, headers=headers)
    if verdict is Verdict.FAILED:
        raise ApiError(412, "precondition_failed", "it is not the version that was asked for")
    raise ApiError(
        416,
        "range_not_satisfiable",
        f"there are {size} bytes",
        headers={"Content-Range": f"bytes */{size}"},
    )


class _Stream(Response):
    def __init__(self, reader: ObjectReader, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(client_gone(receive))
        try:
            status, headers = self.status_code, self.raw_headers
            await send({"type": "http.response.start", "status": status, "headers": headers})
            # An early end closes the connection: the client sees that bytes are missing.
            await self._send_body(send, gone)
        except TimeoutError:
            logger.info("%s: the client takes no more bytes", self._reader.info.key)
        except DerivativeError as error:
            logger.warning("%s", error)
        finally:
            gone.cancel()
            self._reader.close()

    async def _send_body(self, send: Send, gone: asyncio.Task[None]) -> None:
        more = True
        while more and not gone.done():
            chunk = await self._next()
            more = self._reader.left > 0
            async with asyncio.timeout(STALL_SECONDS):
                await send({"type": "http.response.body", "body": chunk, "more_body": more})
            # A fast client must not hold the event loop.
            await asyncio.sleep(0)

    async def _next(self) -> Buffer:
        chunk = self._reader.read_at_once(CHUNK_BYTES)
        if chunk is None:
            read = self._reader.read
            chunk = await to_thread.run_sync(read, CHUNK_BYTES, limiter=_WAITING_READS)
        return chunk


async def client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
