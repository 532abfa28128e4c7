"""Processes that outlived their supervisor, found by a mark."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

# The absolute `$LENS_HOME` in the environment of programs.
MARK = "LENS_SUPERVISED"
# Below `$LENS_HOME`. Forks keep the first one open.
_MARK_FILE = "run/supervised"
_STOP_SECONDS = "run/stop_seconds"
_PID_FILE = "run/supervisord.pid"

# SIGINT makes these close their files; others get SIGTERM.
_SERVERS = frozenset({"postgres", "valkey-server"})
_PATIENCE_SECONDS = 10
_POLL_SECONDS = 0.02


def sweep(home: Path, report: Callable[[str], None]) -> None:
    """End programs of an earlier supervisor of `home`, then its servers; wait for their stop."""
    found = _top(processes_of(home))
    if not found:
        return
    report(f"stopping what is left of an earlier start: {len(found)} of its processes")
    supervisors = [process for process in found if _is_supervisor(process, home)]
    _end(supervisors, signal.SIGTERM, stop_seconds(home) + _PATIENCE_SECONDS)
    programs = [process for process in _top(processes_of(home)) if not _is_server(process)]
    _end(programs, signal.SIGTERM, _PATIENCE_SECONDS)
    kill(home)


def kill(home: Path) -> None:
    """Kill programs; servers may close their files."""
    _end([p for p in processes_of(home) if not _is_server(p)], signal.SIGKILL, _PATIENCE_SECONDS)
    _end(_top(processes_of(home)), signal.SIGINT, _PATIENCE_SECONDS)
    _end(processes_of(home), signal.SIGKILL, _PATIENCE_SECONDS)


def processes_of(home: Path) -> list[psutil.Process]:
    """Started by a supervisor of `home`; without this process and its parents."""
    this = psutil.Process()
    spared = {this.pid, *(parent.pid for parent in this.parents())}
    return [p for p in psutil.process_iter() if p.pid not in spared and _is_marked(p, home)]


def note_stop_seconds(home: Path, seconds: float) -> None:
    (home / _STOP_SECONDS).write_text(str(seconds), encoding="utf-8")


def stop_seconds(home: Path) -> float:
    """The longest time in which all programs of `home` stop."""
    try:
        return float((home / _STOP_SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def mark_this(home: Path) -> int:
    """Mark this process and its forks, whose environment is their parent's; returns a file."""
    return os.open(home / _MARK_FILE, os.O_RDWR | os.O_CREAT, 0o600)


def _end(processes: Iterable[psutil.Process], sent: signal.Signals, seconds: float) -> None:
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sent)
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _runs(process: psutil.Process) -> bool:
    """A zombie does not: a container's first process may never reap it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_marked(process: psutil.Process, home: Path) -> bool:
    try:
        return (
            process.environ().get(MARK) == str(home)
            or _keeps_open(process, str(home / _MARK_FILE))
            or _is_postgres_of(process, home)
        )
    except (psutil.AccessDenied, PermissionError):
        return _is_postgres_of(process, home)
    except (psutil.NoSuchProcess, OSError):
        # Some kernels report an I/O error for a zombie.
        return False


def _keeps_open(process: psutil.Process, path: str) -> bool:
    """Not by psutil, which asks for the size of each file: that of a dead mount hangs."""
    found = Path(f"/proc/{process.pid}/fd")
    if not found.is_dir():
        return path in {file.path for file in process.open_files()}
    for descriptor in found.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(descriptor.readlink()).removesuffix(" (deleted)") == path:
                return True
    return False


def _is_postgres_of(process: psutil.Process, home: Path) -> bool:
    """Titles overwrite the mark, and root without CAP_SYS_PTRACE may not read it.

    A frozen process keeps the shared memory, without which no new server starts.
    """
    if not _is_server(process):
        return False
    data = str(home / "postgres" / "data")
    try:
        return data in process.cmdline() or process.cwd() == data
    except (psutil.Error, OSError):
        return False


def _is_server(process: psutil.Process) -> bool:
    try:
        return process.name() in _SERVERS
    except psutil.NoSuchProcess:
        return False


def _is_supervisor(process: psutil.Process, home: Path) -> bool:
    try:
        return process.pid == int((home / _PID_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False


def _top(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those without a parent among them."""
    processes = list(processes)
    pids = {process.pid for process in processes}
    top = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() not in pids:
                top.append(process)
    return top
