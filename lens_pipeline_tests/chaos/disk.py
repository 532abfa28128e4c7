"""A scratch directory on a small disk of its own, which can be filled up. For root alone."""

import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_MIB = 1024 * 1024
_SIZE_MIB = 256


class SmallDisk:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.is_usable = os.geteuid() == 0

    @property
    def _filler(self) -> Path:
        return self._directory / "filler"

    def fill(self) -> None:
        """Leave less room than any file needs."""
        with self._filler.open("wb") as file:
            free = os.statvfs(self._directory)
            os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - _MIB, _MIB))

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def left(self) -> list[str]:
        """Files that somebody has forgotten there."""
        return [str(path) for path in self._directory.rglob("*") if path.is_file()]

    def __enter__(self) -> Self:
        if self.is_usable:
            self._directory.mkdir(parents=True, mode=0o700)
            size = f"size={_SIZE_MIB}m,mode=0700"
            argv = ["mount", "-t", "tmpfs", "-o", size, "lens-chaos", str(self._directory)]
            subprocess.run(argv, check=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.is_usable:
            subprocess.run(["umount", "--lazy", str(self._directory)], check=True)
