"""The interface of object stores, their errors, and which keys they take."""

import errno
import hashlib
import io
import shutil
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Self

from lens_pipeline.errors import (
    DerivativeError,
    DiskFull,
    SourceTooLarge,
    StoreUnavailable,
    TransientError,
)
from lens_pipeline.storage.content_types import content_type_of

# What a socket takes as it is.
Buffer = bytes | bytearray | memoryview

# Previews keep their key when their source changes, so copies must expire: five minutes, after
# which a cache asks again and is answered 304 as long as the ETag is the same.
CACHE_REVALIDATE = "public, max-age=300, must-revalidate"
# For keys that hold a revision (masters, their posters, renditions): they never get other bytes.
CACHE_IMMUTABLE = "public, max-age=31536000, immutable"
# S3's limit for a key, and the usual file systems' limit for one name, in bytes of UTF-8.
MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
# Left free on the scratch disk, so that rendering and the logs do not run out of room either.
DISK_RESERVE_BYTES = 64 * 1024 * 1024
DISK_CHECK_BYTES = 16 * 1024 * 1024
TEMPORARY = ".tmp"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class InvalidKey(DerivativeError):
    """The text is no object key: it is empty, too long, or would leave the store."""


class StoreRefused(TransientError):
    """The object store turns the request down until its set-up is mended.

    The file is not to blame: a wrong password must not make dead letters.
    """

    blameless = True


class StoreReadOnly(StoreRefused):
    """The object store can't be written to by this user."""


class NoSuchBucket(StoreRefused):
    """The bucket of LENS_STORE_URL does not exist."""


class WrongCredentials(StoreRefused):
    """There are no credentials for the bucket, or its server does not accept them."""


class ObjectReplaced(StoreUnavailable):
    """The object was replaced or deleted while it was read; what is there now is another one."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A source as it arrived: its size in bytes and the SHA-256 of them, in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object; `modified` is aware, `etag` changes whenever the bytes do."""

    key: str
    bytes: int
    modified: datetime
    etag: str


def validate_key(key: str) -> str:
    """Return `key` if it is a key in every store.

    Segments joined by single slashes, none of them `.` or `..`; printable characters only, no
    backslash; not below `.tmp/`, where the file store keeps unfinished objects.

    Raises InvalidKey.
    """
    if not key.isprintable() or "\\" in key:
        raise InvalidKey(f"object key {key[:80]!r} has characters that are not allowed")
    segments = key.split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        raise InvalidKey(f"object key {key[:80]!r} has an empty or a relative segment")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidKey(f"object key {key[:80]!r} is longer than {MAX_KEY_BYTES} bytes")
    if any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
        raise InvalidKey(f"object key {key[:80]!r} has a name over {MAX_SEGMENT_BYTES} bytes")
    if segments[0] == TEMPORARY:
        raise InvalidKey(f"object key {key[:80]!r} lies in {TEMPORARY}/, which is reserved")
    return key


def validate_prefix(prefix: str) -> str:
    if prefix:
        validate_key(prefix.removesuffix("/"))
    return prefix


def require_room(directory: Path, wanted_bytes: int) -> None:
    """Raise DiskFull unless `wanted_bytes` and a reserve fit on the disk of `directory`."""
    if shutil.disk_usage(directory).free < wanted_bytes + DISK_RESERVE_BYTES:
        raise DiskFull(f"no room for {wanted_bytes} bytes in the scratch directory")


def save_stream(
    chunks: Iterable[bytes],
    path: Path,
    *,
    max_bytes: int,
    expected_bytes: int | None = None,
    check: Callable[[], None],
) -> Fetched:
    """Write `chunks` to `path`, which does not exist afterwards unless all of them arrived.

    `check` is called before each chunk is written and raises when it is time to stop.

    Raises SourceTooLarge above `max_bytes`, whatever `expected_bytes` promised; DiskFull.
    """
    if expected_bytes is not None:
        _refuse_above(max_bytes, expected_bytes)
        require_room(path.parent, expected_bytes)
    digest = hashlib.sha256()
    total = 0
    checked = 0
    with ExitStack() as undo, _disk_full():
        undo.callback(path.unlink, missing_ok=True)
        with path.open("wb") as file:
            for chunk in chunks:
                check()
                total += len(chunk)
                _refuse_above(max_bytes, total)
                if total - checked >= DISK_CHECK_BYTES:
                    require_room(path.parent, len(chunk))
                    checked = total
                digest.update(chunk)
                file.write(chunk)
        undo.pop_all()
    return Fetched(total, digest.hexdigest())


def _refuse_above(max_bytes: int, size: int) -> None:
    if size > max_bytes:
        raise SourceTooLarge(f"the source has more than {max_bytes} bytes")


@contextmanager
def _disk_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull("no room left in the scratch directory") from error
        raise


def open_body(body: bytes | Path) -> BinaryIO:
    return io.BytesIO(body) if isinstance(body, bytes) else body.open("rb")


class ObjectReader(ABC):
    """Reads a range of one object: every byte is of the object that `info` describes.

    For one thread at a time. After `select`; ends with `close`, which may be repeated.
    """

    def __init__(self, info: ObjectInfo) -> None:
        self.info = info
        self._place = 0
        self._end = 0

    @property
    def left(self) -> int:
        """Bytes of the range that are still to be read."""
        return self._end - self._place

    def select(self, start: int, end: int) -> None:
        """Go to the byte `start`, to read up to `end`, which is not read; what is needed is opened.

        Raises as `read` does.
        """
        self._place, self._end = start, end

    @abstractmethod
    def read(self, most_bytes: int) -> Buffer:
        """The next bytes of the range, up to so many; none at its end. May wait for the store.

        Raises ObjectReplaced, SourceRefused, StoreRefused, StoreUnavailable.
        """

    def read_at_once(self, most_bytes: int) -> Buffer | None:
        """As `read` if that takes no waiting, so that an event loop may call it; otherwise None."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ObjectStore(ABC):
    """Objects by key. Safe to use from several threads, and across a fork."""

    @abstractmethod
    def write(
        self,
        key: str,
        body: bytes | Path,
        *,
        content_type: str,
        cache_control: str = CACHE_REVALIDATE,
    ) -> None:
        """Store `body` (bytes, or the file at a path) as `key`, in place of what was there."""

    @abstractmethod
    def read_into(
        self, key: str, path: Path, *, max_bytes: int, deadline_seconds: float
    ) -> Fetched:
        """Copy an object to the file `path`, which does not exist after a failure.

        The deadline is looked at between chunks: the operator's store is trusted not to trickle.

        Raises SourceMissing, SourceTooLarge, DiskFull, SourceRefused, StoreUnavailable.
        """

    @abstractmethod
    def open(self, key: str) -> ObjectReader:
        """A reader of the object that is stored as `key` now.

        Raises SourceMissing, SourceRefused, StoreRefused, StoreUnavailable.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """What is stored as `key`; None if nothing is."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose keys start with `prefix`, in the order of their keys, read lazily."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; it is fine if there is none."""

    @abstractmethod
    def uri(self, key: str) -> str:
        """Where the object lies, for people: `file://…` or `s3://…`."""

    @abstractmethod
    def ping(self) -> None:
        """Look whether the store can be read at all, without writing. Raises as `check` does."""

    @abstractmethod
    def sweep(self, older_than_seconds: float) -> int:
        """Remove what killed writers left behind; returns how many leftovers there were."""

    def check(self) -> None:
        """Write, read and delete a probe.

        Raises StoreReadOnly, NoSuchBucket, WrongCredentials, SourceRefused or StoreUnavailable,
        each with the fix in its message.
        """
        key = f"lens-check-{uuid.uuid4().hex}.txt"
        body = f"written by a check of the store: {key}\n".encode()
        self.write(key, body, content_type=content_type_of(key))
        try:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "probe"
                fetched = self.read_into(key, path, max_bytes=len(body), deadline_seconds=30)
        finally:
            self.delete(key)
        if fetched.sha256 != hashlib.sha256(body).hexdigest():
            raise StoreUnavailable(
                f"{self.uri(key)} came back with other bytes than were written:"
                " a proxy or cache in front of the store changes objects"
            )


def deadline(key: str, seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise StoreUnavailable(f"{key}: not read within {seconds:.0f} s")

    return check
