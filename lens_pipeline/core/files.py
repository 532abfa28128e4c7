"""Private files and directories, and temporary ones that end with their process."""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lens_pipeline.core.endpoints import StackError

_LOCK = "owner.lock"
_YOUNG_SECONDS = 5.0


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A directory below `parent`, removed at the end, or by `sweep` after a kill."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix="run-") as name:
        directory = Path(name)
        with (directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory


def sweep(parent: Path) -> int:
    """Returns how many directories of lost processes it removed."""
    if not parent.is_dir():
        return 0
    return sum(_remove_if_abandoned(directory) for directory in parent.glob("run-*"))


def _remove_if_abandoned(directory: Path) -> bool:
    try:
        # A new one is about to be locked.
        if time.time() - directory.stat().st_mtime < _YOUNG_SECONDS:
            return False
        with (directory / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)
    except (BlockingIOError, FileNotFoundError):  # in use, or just being removed
        return False
    return True


# PostgreSQL's first start takes 40 MB; its log grows to 1 GB under load.
_MIN_FREE_MIB = 256
# sun_path has 104 bytes on macOS; supervisord first binds path + `.` + pid.
_MAX_SOCKET_PATH = 90
# gRPC reads an address as a URI.
_NOT_IN_ADDRESSES = "#?%"


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step, for its owner only (0600)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def private_directory(path: Path) -> Path:
    """Make `path` its owner's alone (0700)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def private_home(home: Path) -> Path:
    """Make LENS_HOME its owner's alone (0700), also one that was there: it holds keys and media."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A mounted volume may belong to another user.
    with suppress(PermissionError):
        home.chmod(0o700)
    return home


def socket_path(home: Path, name: str) -> Path:
    """In `home`, or in a temporary directory if that cannot be a socket's. Raises StackError."""
    path = home / "run" / name
    if _can_be_socket(path):
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"lens-{os.geteuid()}-{digest}" / name
    if not _can_be_socket(path):
        raise StackError(
            f"LENS_HOME={home} and TMPDIR are too long for a socket or have one of"
            f" {' '.join(_NOT_IN_ADDRESSES)}: change one"
        )
    return path


def _can_be_socket(path: Path) -> bool:
    is_short = len(os.fsencode(path)) <= _MAX_SOCKET_PATH
    return is_short and not set(_NOT_IN_ADDRESSES).intersection(str(path))


def make_socket_directory(directory: Path) -> None:
    """Raises StackError: another user made it, and could control our programs."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise StackError(f"{directory} belongs to somebody else: remove it or shorten LENS_HOME")
    directory.chmod(0o700)


def prepare_home(home: Path) -> None:
    """Raises StackError: the directory cannot be written, or its disk is full."""
    try:
        private_home(home)
        for name in ("logs", "run"):
            private_directory(home / name)
        write_private(home / "run" / "writable", "")
    except OSError as error:
        raise StackError(
            f"LENS_HOME={home} cannot be used ({error.strerror}): give a directory you may write"
        ) from None
    free = shutil.disk_usage(home).free // 2**20
    if free < _MIN_FREE_MIB:
        raise StackError(
            f"LENS_HOME={home} has {free} MiB free and needs {_MIN_FREE_MIB}: make room or move it"
        )
