"""The object store: a directory or an S3 bucket behind one interface. boto3 is used only here.

Every write is atomic: a reader sees the old object, the new one or none. Errors are those of
`failures.py` and the subclasses below; their messages hold no credentials and no signed URLs.
"""

import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import unquote, urlsplit

from lens_pipeline.core import postgres
from lens_pipeline.errors import (
    DerivativeError,
    DiskFull,
    SourceMissing,
    SourceRefused,
    SourceTooLarge,
    StoreUnavailable,
    TransientError,
)
from lens_pipeline.settings import SettingsError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from botocore.response import StreamingBody

# What a socket takes as it is.
Buffer = bytes | bytearray | memoryview

# Previews keep their key when their source changes, so copies must expire: five minutes, after
# which a cache asks again and is answered 304 as long as the ETag is the same.
CACHE_REVALIDATE = "public, max-age=300, must-revalidate"
# For keys that hold a revision (masters, scaled videos) and so never get other bytes.
CACHE_IMMUTABLE = "public, max-age=31536000, immutable"

# Types by suffix, for stores that keep none. A table of our own, because that of `mimetypes`
# depends on the machine.
CONTENT_TYPES = {
    ".avif": "image/avif",
    ".csv": "text/csv; charset=utf-8",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".webm": "video/webm",
    ".webp": "image/webp",
}

# S3's limit for a key, and the usual file systems' limit for one name, in bytes of UTF-8.
MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255

CHUNK_BYTES = 1024 * 1024
# Small enough that a deadline is looked at often on a slow connection.
S3_CHUNK_BYTES = 64 * 1024
# Left free on the scratch disk, so that rendering and the logs do not run out of room either.
DISK_RESERVE_BYTES = 64 * 1024 * 1024
DISK_CHECK_BYTES = 16 * 1024 * 1024

# Above it a file goes up in parts; S3 takes 5 GiB in one PUT, but a part that fails is cheaper to
# send again than the whole.
MULTIPART_BYTES = 64 * 1024 * 1024
PART_BYTES = 16 * 1024 * 1024
PART_THREADS = 2
# Eight threads with PART_THREADS uploads each and as many again in reserve.
POOL_CONNECTIONS = 32
CONNECT_SECONDS = 5
READ_SECONDS = 20
# For who answers somebody: a store that hangs would take all of their threads.
AWAITED_SECONDS = 3
AWAITED_ATTEMPTS = 2
S3_ATTEMPTS = 3

TEMPORARY = ".tmp"

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_WRONG_CREDENTIALS = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
# Bare numbers are what HEAD gives, whose answers have no body to hold a code.
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"}
_NOT_NOW = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "408", "429"}


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


def _validate_prefix(prefix: str) -> str:
    if prefix:
        validate_key(prefix.removesuffix("/"))
    return prefix


def content_type_of(key: str) -> str:
    """Type of an object by the suffix of its key: what a server of a file store must send."""
    suffix = PurePosixPath(key).suffix.lower()
    return CONTENT_TYPES.get(suffix, "application/octet-stream")


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
        if error.errno in _NO_ROOM:
            raise DiskFull("no room left in the scratch directory") from error
        raise


def _open_body(body: bytes | Path) -> BinaryIO:
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


def open_store(url: str, endpoint: str | None = None) -> ObjectStore:
    """The store at `url`: `file:///directory`, or `s3://bucket/prefix` at an S3 `endpoint`.

    Nothing is contacted or created before the first use.

    Raises SettingsError.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return FileStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        if endpoint is not None and not urlsplit(endpoint).hostname:
            raise SettingsError("LENS_S3_ENDPOINT must be a URL such as https://host/storage/v1/s3")
        return S3Store(parts.netloc, parts.path.strip("/"), endpoint)
    raise SettingsError("LENS_STORE_URL must look like file:///directory or s3://bucket/prefix")


class FileStore(ObjectStore):
    """Objects as files below a directory.

    A file keeps no content type: `content_type_of` tells it from the suffix. Symbolic links below
    the root are not followed, so no key leads out of it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        # Whether `ping` has found the directory.
        self._seen = False

    def write(
        self,
        key: str,
        body: bytes | Path,
        *,
        content_type: str,
        cache_control: str = CACHE_REVALIDATE,
    ) -> None:
        target = self._path(key)
        temporary = self._root / TEMPORARY / f"{uuid.uuid4().hex}.part"
        with _open_body(body) as source, self._errors("write", key), ExitStack() as undo:
            _make_directory(temporary.parent)
            undo.callback(temporary.unlink, missing_ok=True)
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
                file.flush()
                os.fsync(file.fileno())
            _make_directory(target.parent)
            temporary.replace(target)
            _sync_directory(target.parent)

    def read_into(
        self, key: str, path: Path, *, max_bytes: int, deadline_seconds: float
    ) -> Fetched:
        info = self.stat(key)
        if info is None:
            raise SourceMissing(f"{key}: no such object")
        return save_stream(
            self._chunks(key),
            path,
            max_bytes=max_bytes,
            expected_bytes=info.bytes,
            check=_deadline(key, deadline_seconds),
        )

    def open(self, key: str) -> ObjectReader:
        path = self._path(key)
        with ExitStack() as undo, self._errors("open", key):
            file = undo.enter_context(FileIO(path, "rb", opener=_open_object))
            info = _file_info(key, os.fstat(file.fileno()))
            if info is None:
                raise SourceMissing(f"{key}: no such object")
            undo.pop_all()
        return _FileReader(info, file)

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            with self._errors("read", key):
                return _file_info(key, path.stat(follow_symlinks=False))
        except SourceMissing:
            return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        # Not a generator itself, so that a wrong prefix is reported by the call.
        return self._walk("", _validate_prefix(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with suppress(SourceMissing), self._errors("delete", key):
            path.unlink()
            _sync_directory(path.parent)

    def uri(self, key: str) -> str:
        return (self._root / validate_key(key)).as_uri()

    def sweep(self, older_than_seconds: float) -> int:
        limit = time.time() - older_than_seconds
        removed = 0
        for path in (self._root / TEMPORARY).glob("*.part"):
            with self._errors("sweep", path.name), suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
        return removed

    def ping(self) -> None:
        # A new store has no directory before its first object.
        with self._errors("open", ""):
            try:
                os.scandir(self._root).close()
                self._seen = True
            except FileNotFoundError:
                if self._seen:
                    raise

    def _path(self, key: str) -> Path:
        root = os.path.realpath(self._root)
        path = Path(root, validate_key(key))
        if os.path.realpath(path) != str(path):
            raise InvalidKey(f"object key {key[:80]!r} leads through a symbolic link")
        return path

    def _chunks(self, key: str) -> Iterator[bytes]:
        with self._errors("read", key), self._path(key).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _walk(self, parent: str, prefix: str) -> Iterator[ObjectInfo]:
        """Depth first, with directories sorted as `name/`: that is the order of whole keys."""
        try:
            with self._errors("read", parent), os.scandir(self._root / parent) as entries:
                names = sorted(
                    entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                    for entry in entries
                )
        except SourceMissing:
            return
        for name in names:
            key = parent + name
            if name.endswith("/"):
                if key != f"{TEMPORARY}/" and (key.startswith(prefix) or prefix.startswith(key)):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix):
                # Files that were put here by hand under names that are no keys are not objects.
                with suppress(InvalidKey):
                    info = self.stat(key)
                    if info is not None:
                        yield info

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._named_error(action, key, error) from error

    def _named_error(self, action: str, key: str, error: OSError) -> DerivativeError:
        if action == "open" and error.errno in _ABSENT and not self._root.is_dir():
            # What is opened was stored: a disk that is not mounted holds no proof of absence.
            return StoreUnavailable(f"{self._root} is no directory: is its disk mounted?")
        if action in {"open", "read", "delete"} and error.errno in _ABSENT:
            return SourceMissing(f"{key}: no such object")
        reason = f"cannot {action} {key} in {self._root}: {error.strerror}"
        if error.errno in _READ_ONLY and action in {"open", "read"}:
            return StoreRefused(f"{reason}: let this user read it")
        if error.errno in _READ_ONLY:
            return StoreReadOnly(
                f"{reason}: let this user write there, or set LENS_STORE_URL to another directory"
            )
        if error.errno in _NO_ROOM:
            return StoreUnavailable(f"{reason}: make room on the disk of LENS_STORE_URL")
        return StoreUnavailable(reason)


def _open_object(path: str, flags: int) -> int:
    """Neither through a symbolic link, nor waiting for whoever writes into a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class _FileReader(ObjectReader):
    """Holds the file open: a write puts a new one in its place and leaves this one as it is."""

    def __init__(self, info: ObjectInfo, file: FileIO) -> None:
        super().__init__(info)
        self._file = file

    def read(self, most_bytes: int) -> Buffer:
        try:
            return self._read(most_bytes, 0)
        except OSError as error:
            raise StoreUnavailable(f"cannot read {self.info.key}: {error.strerror}") from error

    def read_at_once(self, most_bytes: int) -> Buffer | None:
        # Linux can say "only what is in memory", though not of every file system.
        flag = getattr(os, "RWF_NOWAIT", None)
        if flag is None:
            return None
        try:
            return self._read(most_bytes, flag)
        except OSError:  # if it is more than not being in memory, `read` will say so
            return None

    def close(self) -> None:
        self._file.close()

    def _read(self, most_bytes: int, flags: int) -> Buffer:
        buffer = bytearray(min(most_bytes, self.left))
        if not buffer:
            return buffer
        count = os.preadv(self._file.fileno(), [buffer], self._place, flags)
        if count == 0:
            raise ObjectReplaced(f"{self.info.key} was cut short while it was read")
        self._place += count
        return buffer if count == len(buffer) else memoryview(buffer)[:count]


def _file_info(key: str, status: os.stat_result) -> ObjectInfo | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return ObjectInfo(
        key,
        status.st_size,
        datetime.fromtimestamp(status.st_mtime, UTC),
        # The inode too: every write makes a new file, even within one tick of the clock.
        f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}",
    )


def _make_directory(path: Path) -> None:
    """Create `path` and its parents, each one recorded on the disk."""
    if path.is_dir():
        return
    if path != path.parent:
        _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _deadline(key: str, seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise StoreUnavailable(f"{key}: not read within {seconds:.0f} s")

    return check


class S3Store(ObjectStore):
    """Objects in a bucket of S3 or of a server that speaks its protocol.

    Credentials and the region come from boto3's own chain (environment, profile, instance role).
    The order of `list` is the server's: S3 sorts by key, some other servers by directory.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{validate_key(prefix)}/" if prefix else ""
        self._endpoint = endpoint
        self._lock = threading.Lock()
        # By process and by whether somebody waits.
        self._made: dict[tuple[int, bool], Any] = {}
        self._bucket_seen = False

    def write(
        self,
        key: str,
        body: bytes | Path,
        *,
        content_type: str,
        cache_control: str = CACHE_REVALIDATE,
    ) -> None:
        name = self._name(key)
        headers = {"ContentType": content_type, "CacheControl": cache_control}
        with self._errors("write", key):
            if isinstance(body, bytes):
                self._client().put_object(Bucket=self._bucket, Key=name, Body=body, **headers)
            else:
                self._upload(name, body, headers)

    def read_into(
        self, key: str, path: Path, *, max_bytes: int, deadline_seconds: float
    ) -> Fetched:
        check = _deadline(key, deadline_seconds)
        with self._errors("read", key):
            answer = self._client().get_object(Bucket=self._bucket, Key=self._name(key))
            with answer["Body"]:
                answer["Body"].set_socket_timeout(min(deadline_seconds, READ_SECONDS))
                return save_stream(
                    answer["Body"].iter_chunks(S3_CHUNK_BYTES),
                    path,
                    max_bytes=max_bytes,
                    expected_bytes=answer["ContentLength"],
                    check=check,
                )

    def open(self, key: str) -> ObjectReader:
        info = self.stat(key)
        if info is None:
            raise SourceMissing(f"{key}: no such object")
        return _S3Reader(info, self._body)

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors("look up", key):
                answer = self._client().head_object(Bucket=self._bucket, Key=self._name(key))
        except SourceMissing:
            self._require_bucket()
            return None
        etag = answer["ETag"].strip('"')
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"], etag)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        # Not a generator itself, so that a wrong prefix is reported by the call.
        return self._pages(_validate_prefix(prefix))

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client().delete_object(Bucket=self._bucket, Key=self._name(key))

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._name(key)}"

    def sweep(self, older_than_seconds: float) -> int:
        """Abort uploads in parts that were begun so long ago; their parts cost room unseen."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        removed = 0
        with self._errors("sweep", self._prefix):
            pages = self._client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < limit:
                        self._client().abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        removed += 1
        return removed

    def ping(self) -> None:
        with self._errors("open", ""):
            self._client().head_bucket(Bucket=self._bucket)

    def _name(self, key: str) -> str:
        return self._prefix + validate_key(key)

    def _body(self, info: ObjectInfo, start: int, end: int) -> "StreamingBody":
        """The bytes from `start` to before `end` of exactly this object; `start` is before `end`.

        Raises ObjectReplaced if it is there no more.
        """
        # Lazy for the reason given in `_connect`.
        from botocore.exceptions import ClientError

        with self._errors("read", info.key):
            try:
                answer = self._client().get_object(
                    Bucket=self._bucket,
                    Key=self._name(info.key),
                    Range=f"bytes={start}-{end - 1}",
                    IfMatch=f'"{info.etag}"',
                )
            except ClientError as error:
                if _status(error) not in {404, 412, 416}:
                    raise
                raise ObjectReplaced(f"{info.key} was replaced while it was read") from None
        body = answer["Body"]
        # Not every server that speaks S3 knows conditions, or ranges.
        if answer["ETag"].strip('"') != info.etag or answer["ContentLength"] != end - start:
            body.close()
            raise ObjectReplaced(f"{info.key} was replaced while it was read")
        return body

    def _upload(self, name: str, path: Path, headers: dict[str, str]) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=MULTIPART_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=PART_THREADS,
        )
        with path.open("rb") as file:
            self._client().upload_fileobj(
                file, self._bucket, name, ExtraArgs=headers, Config=config
            )

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", []):
                    # Some tools mark an empty folder by an object whose key ends in a slash.
                    if entry["Key"].endswith("/"):
                        continue
                    yield ObjectInfo(
                        entry["Key"].removeprefix(self._prefix),
                        entry["Size"],
                        entry["LastModified"],
                        entry["ETag"].strip('"'),
                    )

    def _require_bucket(self) -> None:
        """Raise NoSuchBucket if a HEAD found nothing because the whole bucket is missing.

        Otherwise a wrong LENS_STORE_URL would look like a store where everything is to be made.
        """
        if self._bucket_seen:
            return
        with self._errors("open", ""):
            self._client().head_bucket(Bucket=self._bucket)
        self._bucket_seen = True

    def _client(self) -> Any:
        """The client of this process: a fork must not share its parent's connections."""
        key = os.getpid(), postgres.is_set()
        with self._lock:
            if key not in self._made:
                self._made[key] = self._connect(is_awaited=key[1])
            return self._made[key]

    def _connect(self, *, is_awaited: bool) -> Any:
        # Imported here because it takes 0.6 s, which every command would pay, file store or not.
        import boto3.session
        from botocore.config import Config

        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=AWAITED_SECONDS if is_awaited else CONNECT_SECONDS,
                read_timeout=AWAITED_SECONDS if is_awaited else READ_SECONDS,
                retries={
                    "mode": "standard",
                    "total_max_attempts": AWAITED_ATTEMPTS if is_awaited else S3_ATTEMPTS,
                },
                max_pool_connections=POOL_CONNECTIONS,
                # Not every server that speaks S3 knows the checksums boto3 sends by default.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Servers other than Amazon's rarely have a host name for each bucket.
                s3={"addressing_style": "path" if self._endpoint else "auto"},
            ),
        )

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        # Lazy for the reason given in `_connect`. Causes are dropped (`from None`): the texts of
        # botocore's exceptions may hold keys and signed URLs.
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        try:
            yield
        except ClientError as error:
            raise self._named_error(action, key, error) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise WrongCredentials(
                f"no credentials for s3://{self._bucket}:"
                " set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"cannot {action} s3://{self._bucket}/{self._prefix}{key}:"
                f" {type(error).__name__}: is {self._server} up and reachable?"
            ) from None

    @property
    def _server(self) -> str:
        return urlsplit(self._endpoint).hostname or "" if self._endpoint else "Amazon S3"

    def _named_error(self, action: str, key: str, error: "ClientError") -> DerivativeError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = _status(error)
        reason = f"cannot {action} s3://{self._bucket}/{self._prefix}{key}: {code or status}"
        if status >= 500 or code in _NOT_NOW:
            return StoreUnavailable(reason)
        if code == "NoSuchBucket" or (status == 404 and action not in {"read", "look up"}):
            return NoSuchBucket(f"{reason}: create the bucket, or correct LENS_STORE_URL")
        if status == 404:
            return SourceMissing(f"{key}: no such object")
        if code in _WRONG_CREDENTIALS:
            return WrongCredentials(
                f"{reason}: correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION"
            )
        if code in _DENIED and action == "read":
            return SourceRefused(f"{reason}: check the credentials, allow them s3:GetObject")
        if code in _DENIED and action in {"write", "delete"}:
            return StoreReadOnly(
                f"{reason}: check the credentials, allow them s3:PutObject and s3:DeleteObject"
            )
        if code in _DENIED:
            return WrongCredentials(f"{reason}: check the credentials and what they may do")
        return StoreRefused(reason)


class _S3Reader(ObjectReader):
    """Reads a range by one request, and goes on by another one if the connection breaks.

    A server may hang up on a reader that is slow because a browser has buffered enough.
    """

    def __init__(
        self, info: ObjectInfo, body: Callable[[ObjectInfo, int, int], "StreamingBody"]
    ) -> None:
        super().__init__(info)
        self._request = body
        self._body: StreamingBody | None = None

    def select(self, start: int, end: int) -> None:
        super().select(start, end)
        self.close()
        if self.left:
            self._body = self._request(self.info, start, end)

    def read(self, most_bytes: int) -> Buffer:
        # Lazy for the reason given in `S3Store._connect`.
        from botocore.exceptions import BotoCoreError

        if not self.left:
            return b""
        reason = "its server hangs up"
        for _ in range(S3_ATTEMPTS):
            if self._body is None:
                self._body = self._request(self.info, self._place, self._end)
            try:
                found = self._body.read(min(most_bytes, self.left))
            except (BotoCoreError, OSError) as error:
                reason = type(error).__name__
                found = b""
            if found:
                self._place += len(found)
                return found
            self.close()
        raise StoreUnavailable(f"cannot read {self.info.key}: {reason}")

    def close(self) -> None:
        if self._body is not None:
            # Not read to its end: the connection cannot be used again.
            self._body.close()
            self._body = None


def _status(error: "ClientError") -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
