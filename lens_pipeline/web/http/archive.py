"""ZIP archives of objects of the store, made while they are sent.

Which objects: `routes/archives.py`. Entries are stored, as media do not get smaller.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, WouldBlock, to_thread
from fastapi import Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send
from zipstream import ZipStream

from lens_pipeline.core.logs import FIELDS
from lens_pipeline.errors import LensError, SourceMissing
from lens_pipeline.storage.object_store import (
    Buffer,
    InvalidKey,
    ObjectReader,
    ObjectReplaced,
    ObjectStore,
)
from lens_pipeline.web.errors import ApiError
from lens_pipeline.web.http.filenames import EntryNames
from lens_pipeline.web.http.streaming import ATTEMPTS, CHUNK_BYTES, STALL_SECONDS, client_gone

logger = logging.getLogger(__name__)

ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A ZIP file; MISSING.txt in it names what could not be had.",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}
MISSING = "MISSING.txt"
# Each holds a connection to the store, two chunks, and a thread while it reads.
_MOST_AT_ONCE = 8
# Two such clients leave a place to others.
_MOST_OF_ONE = 3
_archives = CapacityLimiter(_MOST_AT_ONCE)
_held: Counter[Hashable] = Counter()
_threads = CapacityLimiter(_MOST_AT_ONCE)
_BUSY_SECONDS = 30
# The slowest mobile networks in use (EDGE) give about 25 KiB/s.
_LEAST_BYTES_A_SECOND = 16 * 1024


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """`key`: of the object; `problem` is told if there is none, of the row `row_id`."""

    folder: str
    name: str
    ending: str = ""
    key: str | None = None
    problem: str = ""
    row_id: str = ""


class Archive(Response):
    """`files` are asked for one by one, in a thread, as the client takes them.

    `holder`: a client that may hold some of the places only; None: it may hold all.
    """

    media_type = "application/zip"

    def __init__(
        self,
        store: ObjectStore,
        files: Iterable[ArchiveFile],
        disposition: str,
        holder: Hashable | None,
    ) -> None:
        super().__init__(headers={"Content-Disposition": disposition})
        del self.headers["Content-Length"]
        self._holder = holder
        self._contents = _Contents(store, files)
        self._pieces = self._contents.pieces()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError 429; what the store or a database raises before the first file."""
        with self._place():
            gone = asyncio.create_task(client_gone(receive))
            try:
                block = await self._next(1)
                await self._send(send, gone, block)
            finally:
                gone.cancel()
                self._pieces.close()

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Raises ApiError 429."""
        if self._holder is not None and _held[self._holder] >= _MOST_OF_ONE:
            raise _busy(f"{_MOST_OF_ONE} archives are being sent to you already")
        try:
            _archives.acquire_on_behalf_of_nowait(self)
        except WouldBlock:
            raise _busy(f"{_MOST_AT_ONCE} archives are being sent already") from None
        _held[self._holder] += 1
        try:
            yield
        finally:
            _archives.release_on_behalf_of(self)
            _held[self._holder] -= 1
            if not _held[self._holder]:
                del _held[self._holder]

    async def _send(self, send: Send, gone: asyncio.Task[None], block: bytes) -> None:
        status, headers = self.status_code, self.raw_headers
        await send({"type": "http.response.start", "status": status, "headers": headers})
        now, patience = asyncio.get_running_loop().time, STALL_SECONDS
        # An early end closes the connection: the client sees that bytes are missing.
        try:
            while not gone.done():
                body = {"type": "http.response.body", "body": block, "more_body": bool(block)}
                begun = now()
                async with asyncio.timeout(patience):
                    await send(body)
                # A slow client uses it up; what it takes gives it some back.
                patience -= now() - begun - len(block) / _LEAST_BYTES_A_SECOND
                patience = min(patience, STALL_SECONDS)
                if not block:
                    break
                block = await self._next(CHUNK_BYTES)
        except TimeoutError:
            logger.info("an archive: the client takes no more bytes, or too few")
        except (LensError, SQLAlchemyError) as error:
            logger.warning("an archive breaks off: %s", error)
        self._contents.log(is_whole=not block)

    async def _next(self, least_bytes: int) -> bytes:
        """Empty at the end. Small pieces are gathered: each call takes a thread."""
        return await to_thread.run_sync(_gather, self._pieces, least_bytes, limiter=_threads)


def _busy(reason: str) -> ApiError:
    headers = {"Retry-After": str(_BUSY_SECONDS)}
    return ApiError(429, "too_many_archives", f"{reason}: try again later", headers=headers)


def _gather(pieces: Iterator[Buffer], least_bytes: int) -> bytes:
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= least_bytes:
            break
    return bytes(block)


class _Contents:
    def __init__(self, store: ObjectStore, files: Iterable[ArchiveFile]) -> None:
        self._store = store
        self._files = files
        self._count = 0
        self._missing: list[str] = []

    def pieces(self) -> Generator[Buffer, None, None]:
        """Raises what reading the store and `files` raises."""
        archive, names = ZipStream(), EntryNames()
        names.add("", MISSING)
        for file in self._files:
            name = names.add(file.folder, file.name, file.ending)
            reader = self._open(file.key) if file.key is not None else None
            if reader is None:
                row = f" ({file.row_id})" if file.row_id not in name else ""
                self._missing.append(f"{name}{row}: {file.problem}")
                continue
            with reader:
                archive.add(_chunks(reader), name, size=reader.info.bytes)
                yield from archive.file()
            self._count += 1
        if self._missing:
            archive.add("".join(f"{line}\n" for line in self._missing), MISSING)
        yield from archive.finalize()

    def log(self, *, is_whole: bool) -> None:
        files, missing = self._count, len(self._missing)
        fields = {"files": files, "missing": missing, "is_whole": is_whole}
        logger.info("an archive of %d files, %d missing", files, missing, extra={FIELDS: fields})

    def _open(self, key: str) -> ObjectReader | None:
        """Of the whole object, which may be replaced at its look-up; None: it is gone."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reader = self._store.open(key)
                reader.select(0, reader.info.bytes)
            except (SourceMissing, InvalidKey):
                return None
            except ObjectReplaced:
                if attempt == ATTEMPTS:
                    raise
            else:
                return reader
        return None


def _chunks(reader: ObjectReader) -> Iterator[Buffer]:
    while reader.left:
        yield reader.read(CHUNK_BYTES)
