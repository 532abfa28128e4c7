"""Temporary files: one locked directory a process, swept once its process is gone."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "owner.lock"
_YOUNG_SECONDS = 5.0


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A directory below `parent` that goes away at the end, or by `sweep` after a kill -9."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix="run-") as name:
        directory = Path(name)
        with (directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory


def sweep(parent: Path) -> int:
    """Remove the directories below `parent` whose process is gone; returns how many."""
    if not parent.is_dir():
        return 0
    return sum(_remove_if_abandoned(directory) for directory in parent.glob("run-*"))


def _remove_if_abandoned(directory: Path) -> bool:
    try:
        # One that was made this moment is about to be locked.
        if time.time() - directory.stat().st_mtime < _YOUNG_SECONDS:
            return False
        with (directory / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)
    except (BlockingIOError, FileNotFoundError):  # in use, or its owner is just cleaning up
        return False
    return True
