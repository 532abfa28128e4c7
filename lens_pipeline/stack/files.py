"""Private files and directories: what lies in `$LENS_HOME` is for its owner alone."""

import os
import shutil
from pathlib import Path

from lens_pipeline.stack.endpoints import StackError

# PostgreSQL's first start takes 40 MB and its log grows to 1 GB under load; less than this fails
# within the first minutes, in places that say little.
_MIN_FREE_MIB = 256


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, readable by its owner only (0600)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def private_directory(path: Path) -> Path:
    """Make `path` if need be, and make it its owner's alone (0700)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def prepare_home(home: Path) -> None:
    """Create `$LENS_HOME` with its `logs` and `run` directories.

    Raises StackError: it cannot be created or written, or its disk is full.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
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
