"""File locks for the owner and the users of a home's servers. They end with their process."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class Lock:
    """Never waits. The file stays: two processes could lock two files of one name."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def try_exclusive(self) -> bool:
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        return self._try(fcntl.LOCK_SH)

    def release(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def read(self) -> str:
        return os.pread(self._descriptor, 1000, 0).decode()

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self._descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@dataclass(frozen=True)
class Owner:
    """Runs the servers; `command` follows `lens`."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"`lens {self.command}` (pid {self.pid})"


def owner_lock(home: Path) -> Lock:
    return Lock(home / "owner.lock")


def users_lock(home: Path) -> Lock:
    """Shared by processes that use the servers."""
    return Lock(home / "users.lock")


def try_own(lock: Lock, command: str) -> bool:
    if not lock.try_exclusive():
        return False
    lock.write(f"{os.getpid()} {command}")
    return True


def current_owner(lock: Lock) -> Owner | None:
    """None: the owner is just taking the lock."""
    pid, _, command = lock.read().partition(" ")
    return Owner(int(pid), command) if command else None
