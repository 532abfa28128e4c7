"""An object store in a directory."""

import errno
import io
import os
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from lens_pipeline.errors import DerivativeError, SourceMissing, StoreUnavailable
from lens_pipeline.storage.object_store import (
    CACHE_REVALIDATE,
    MAX_OBJECT_BYTES,
    NO_ROOM,
    TEMPORARY,
    Buffer,
    Fetched,
    InvalidKey,
    ObjectInfo,
    ObjectReader,
    ObjectReplaced,
    ObjectStore,
    StoreReadOnly,
    StoreRefused,
    read_check,
    save_stream,
    validate_key,
)

CHUNK_BYTES = 1024 * 1024
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
# Of `uuid4().hex`.
_PART = re.compile(r"[0-9a-f]{32}\.part")
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class FileStore(ObjectStore):
    """Objects as files. Symbolic links are not followed, so no key leads out of the root."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
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
        source = io.BytesIO(body) if isinstance(body, bytes) else body.open("rb")
        with source, self._errors("write", key), ExitStack() as undo:
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
        self,
        key: str,
        path: Path,
        *,
        max_bytes: int = MAX_OBJECT_BYTES,
        deadline_seconds: float | None = None,
        cancelled: threading.Event | None = None,
    ) -> Fetched:
        size = self._require(key).bytes
        check = read_check(key, size, deadline_seconds, cancelled)
        return save_stream(
            self._chunks(key), path, max_bytes=max_bytes, expected_bytes=size, check=check
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

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        parent = prefix.rpartition("/")[0]
        if not parent:
            return self._walk("", prefix)
        # The directories of other users need not be read.
        with suppress(InvalidKey), self._errors("read", parent):
            if parent.split("/")[0] != TEMPORARY and self._path(parent).is_dir():
                return self._walk(parent + "/", prefix)
        return iter(())

    def delete(self, key: str) -> None:
        path = self._path(key)
        with suppress(SourceMissing), self._errors("delete", key):
            path.unlink()
            _sync_directory(path.parent)

    def uri(self, key: str) -> str:
        return (self._root / validate_key(key)).as_uri()

    def sweep(self, older_than_seconds: float, own: re.Pattern[str]) -> int:
        """No application has a directory of that name in the store; `own` is not needed."""
        limit = time.time() - older_than_seconds
        removed = 0
        directory = self._root / TEMPORARY
        for path in [] if directory.is_symlink() else directory.glob("*.part"):
            with self._errors("sweep", path.name), suppress(FileNotFoundError):
                status = path.lstat()
                is_old = stat.S_ISREG(status.st_mode) and status.st_mtime < limit
                if is_old and _PART.fullmatch(path.name):
                    path.unlink()
                    removed += 1
        return removed

    def ping(self) -> None:
        # A new store has no directory yet.
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
        """In the order of whole keys: directories sorted as `name/`."""
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
        """Without the directory: callers with tokens of a user see the messages."""
        if action == "open" and error.errno in _ABSENT and not self._root.is_dir():
            # A disk that is not mounted does not prove absence.
            return StoreUnavailable("the store is no directory: is its disk mounted?")
        if action in {"open", "read", "delete"} and error.errno in _ABSENT:
            return SourceMissing(f"{key}: no such object")
        reason = f"cannot {action} {key or 'the store'}: {error.strerror}"
        if error.errno in _READ_ONLY and action in {"open", "read"}:
            return StoreRefused(f"{reason}: let this user read it")
        if error.errno in _READ_ONLY:
            return StoreReadOnly(
                f"{reason}: let this user write there, or set LENS_STORE_URL to another directory"
            )
        if error.errno in NO_ROOM:
            return StoreUnavailable(f"{reason}: make room on the disk of LENS_STORE_URL")
        return StoreUnavailable(reason)


def _open_object(path: str, flags: int) -> int:
    """Without symbolic links and waits at pipes."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


class _FileReader(ObjectReader):
    """Holds the file open: a write replaces it, but does not change it."""

    def __init__(self, info: ObjectInfo, file: FileIO) -> None:
        super().__init__(info)
        self._file = file

    def read(self, most_bytes: int) -> Buffer:
        try:
            return self._read(most_bytes, 0)
        except OSError as error:
            raise StoreUnavailable(f"cannot read {self.info.key}: {error.strerror}") from error

    def read_at_once(self, most_bytes: int) -> Buffer | None:
        # With this flag Linux reads cached data only, on some file systems.
        flag = getattr(os, "RWF_NOWAIT", None)
        try:
            return None if flag is None else self._read(most_bytes, flag)
        except OSError:  # `read` reports other errors
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
    # Every write makes a new inode.
    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), etag)


def _make_directory(path: Path) -> None:
    """And parents, synced to disk."""
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
