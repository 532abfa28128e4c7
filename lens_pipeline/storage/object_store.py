"""The interface of object stores, their errors, and valid keys."""

import errno
import hashlib
import re
import shutil
import tempfile
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from lens_pipeline.errors import (
    DerivativeError,
    DiskFull,
    SourceMissing,
    SourceTooLarge,
    StoreUnavailable,
    TransientError,
)
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.retries import FetchCancelled

Buffer = bytes | bytearray | memoryview

# Previews keep their key when their source changes: caches ask again after five minutes.
CACHE_REVALIDATE = "public, max-age=300, must-revalidate"
# For keys with a revision, whose bytes never change.
CACHE_IMMUTABLE = "public, max-age=31536000, immutable"
# UTF-8; S3's limit for a key, and of usual file systems for a name.
MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
# For rendering and logs.
DISK_RESERVE_BYTES = 64 * 1024 * 1024
DISK_CHECK_BYTES = 16 * 1024 * 1024
# A full disk may have room for less.
_CHECK_BYTES = 1024 * 1024
_CHECK_KEY = re.compile(r"lens-check-[0-9a-f]{32}\.txt")
# A check that goes on for longer has failed: to write and to read take a minute each at most.
_CHECK_LASTS = timedelta(minutes=5)
TEMPORARY = ".tmp"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# More than S3 stores.
MAX_OBJECT_BYTES = 1 << 44
_TRANSFER_SECONDS = 60.0
_LEAST_BYTES_A_SECOND = 1 << 20
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class InvalidKey(DerivativeError):
    """An object key is empty, too long, or leads out of the store."""


class StoreRefused(TransientError):
    """The store refuses until its set-up is corrected: the file must not become a dead letter."""

    blameless = True


class StoreReadOnly(StoreRefused):
    """This user cannot write to the object store."""


class NoSuchBucket(StoreRefused):
    """The bucket of LENS_STORE_URL does not exist."""


class WrongCredentials(StoreRefused):
    """Credentials are missing or not accepted."""


class ObjectReplaced(StoreUnavailable):
    """The object changed while it was read."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """`sha256` is in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`modified` is aware; `etag` changes with the bytes."""

    key: str
    bytes: int
    modified: datetime
    etag: str


def is_object_key(asset_url: str) -> bool:
    """Whether it names an object of the store, and is no link."""
    return not _SCHEME.match(asset_url.strip())


def validate_key(key: str) -> str:
    """Return `key` if it is valid in every store; else raise InvalidKey.

    Segments are joined by single slashes, none `.` or `..`; only printable characters, no
    backslash; not below `.tmp/`, where the file store keeps unfinished objects.
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


def _require_room(directory: Path, wanted_bytes: int) -> None:
    """Raise DiskFull unless `wanted_bytes` and a reserve fit."""
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
    """Write `chunks` to `path`, which does not exist after a failure.

    `check` runs before each chunk and may raise. Raises SourceTooLarge, DiskFull.
    """
    if expected_bytes is not None:
        _refuse_above(max_bytes, expected_bytes)
        _require_room(path.parent, expected_bytes)
    digest = hashlib.sha256()
    total = checked = 0
    with ExitStack() as undo, _disk_full():
        undo.callback(path.unlink, missing_ok=True)
        with path.open("wb") as file:
            for chunk in chunks:
                check()
                total += len(chunk)
                _refuse_above(max_bytes, total)
                if total - checked >= DISK_CHECK_BYTES:
                    _require_room(path.parent, len(chunk))
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


class ObjectReader(ABC):
    """Reads a range of an object, in one thread. `select` comes first; `close` may be repeated."""

    def __init__(self, info: ObjectInfo) -> None:
        self.info = info
        self._place = 0
        self._end = 0

    @property
    def left(self) -> int:
        """Unread bytes of the range."""
        return self._end - self._place

    def select(self, start: int, end: int) -> None:
        """Choose `start` to before `end`. Raises what `read` raises."""
        self._place, self._end = start, end

    @abstractmethod
    def read(self, most_bytes: int) -> Buffer:
        """Empty at the end of the range; may wait.

        Raises ObjectReplaced, SourceRefused, StoreRefused, StoreUnavailable.
        """

    def read_at_once(self, most_bytes: int) -> Buffer | None:
        """As `read`, but None instead of waiting."""
        return None

    @abstractmethod
    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ObjectStore(ABC):
    """Objects by key. Safe across threads and forks."""

    @abstractmethod
    def write(
        self,
        key: str,
        body: bytes | Path,
        *,
        content_type: str,
        cache_control: str = CACHE_REVALIDATE,
    ) -> None:
        """Store bytes or a file in place of an older object."""

    @abstractmethod
    def read_into(
        self,
        key: str,
        path: Path,
        *,
        max_bytes: int = MAX_OBJECT_BYTES,
        deadline_seconds: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Fetched:
        """Copy to `path`, which does not exist after a failure. None: `transfer_seconds`.

        Looks at the deadline and at `cancelled` between chunks. Raises SourceMissing,
        SourceTooLarge, DiskFull, SourceRefused, StoreUnavailable, FetchCancelled.
        """

    @abstractmethod
    def open(self, key: str) -> ObjectReader:
        """Raises SourceMissing, SourceRefused, StoreRefused, StoreUnavailable."""

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """None: no such object."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Lists lazily, in the order of keys. Raises InvalidKey at once."""
        if prefix:
            validate_key(prefix.removesuffix("/"))
        return self._list(prefix)

    @abstractmethod
    def _list(self, prefix: str) -> Iterator[ObjectInfo]: ...

    @abstractmethod
    def delete(self, key: str) -> None:
        """Absence is no error."""

    @abstractmethod
    def uri(self, key: str) -> str:
        """For people: `file://…` or `s3://…`."""

    def key_of(self, url: str) -> str | None:
        """Of the object that a web address names, which may be private; None: it names none."""
        return None

    @abstractmethod
    def ping(self) -> None:
        """As `check`, but does not write."""

    @abstractmethod
    def sweep(self, older_than_seconds: float, own: re.Pattern[str]) -> int:
        """Remove what killed writers of keys that match `own` as a whole left; returns its number.

        A bucket may hold uploads of other applications.
        """

    def _require(self, key: str) -> ObjectInfo:
        info = self.stat(key)
        if info is None:
            raise SourceMissing(f"{key}: no such object")
        return info

    def check(self) -> None:
        """Write, list, read and delete a probe.

        Raises StoreReadOnly, StoreRefused, NoSuchBucket, WrongCredentials, SourceRefused,
        StoreUnavailable.
        """
        key = f"lens-check-{uuid.uuid4().hex}.txt"
        line = f"written by a check of the store: {key}\n".encode()
        body = line * (_CHECK_BYTES // len(line))
        self.write(key, body, content_type=content_type_of(key))
        try:
            self._delete_old_probes(own=key)
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "probe"
                fetched = self.read_into(key, path, max_bytes=len(body))
        finally:
            self.delete(key)
        if fetched.sha256 != hashlib.sha256(body).hexdigest():
            raise StoreUnavailable(
                f"{self.uri(key)} came back with other bytes than were written:"
                " a proxy or cache in front of the store changes objects"
            )

    def _delete_old_probes(self, own: str) -> None:
        """Those of checks that were killed, or could not delete theirs; by the store's clock."""
        probes = [info for info in self.list("lens-check-") if _CHECK_KEY.fullmatch(info.key)]
        now = max((info.modified for info in probes if info.key == own), default=None)
        for info in probes:
            if now is not None and info.modified < now - _CHECK_LASTS:
                self.delete(info.key)


def transfer_seconds(size: int) -> float:
    """The limit for a transfer of `size` bytes: a store that takes longer counts as gone."""
    return _TRANSFER_SECONDS + size / _LEAST_BYTES_A_SECOND


def read_check(
    key: str, size: int, seconds: float | None, cancelled: threading.Event | None
) -> Callable[[], None]:
    """For implementations of `read_into`."""
    seconds = transfer_seconds(size) if seconds is None else seconds
    end = time.monotonic() + seconds

    def check() -> None:
        if cancelled is not None and cancelled.is_set():
            raise FetchCancelled("the run was cancelled")
        if time.monotonic() > end:
            raise StoreUnavailable(f"{key}: not read within {seconds:.0f} s")

    return check
