"""Runs ffmpeg and ffprobe: limits, progress, cancellation, errors."""

import contextlib
import functools
import math
import os
import re
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, cast

import psutil

from lens_pipeline.media.errors import (
    Cancelled,
    CommandFailed,
    DiskFull,
    MediaError,
    MediaProcessDied,
    ToolUnusable,
)
from lens_pipeline.media.sandbox.confinement import confined_thread

# From SIGTERM to SIGKILL.
_TERMINATE_SECONDS = 2.0
_POLL_SECONDS = 0.01
_CHECK_SECONDS = 0.1
_CHUNK_BYTES = 1 << 16
# Characters: the last lines say why.
_MESSAGE_TAIL = 400
# Damage can bring millions of warnings.
_MESSAGES_BYTES = 64 * 1024
# Without -y, ffmpeg keeps an existing file and reports success.
_OPTIONS = ("-nostdin", "-hide_banner", "-y", "-nostats", "-progress", "pipe:1")
_REPORT_SECONDS = 0.5
# For the start on a busy machine.
_LIMIT_SECONDS = 120.0
_NICENESS = 10
# Address space: x264 takes 1.5 GB for 2160p.
_MEMORY_BYTES = 8 << 30
# Of ffprobe: with the most samples it takes 0.2 GB besides libraries, and writes 300 MB.
_SHORT_MEMORY_BYTES = 2 << 30
_OUTPUT_BYTES = 512 << 20
# A file that crashes a decoder does so again.
CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
)
# ffmpeg's exit status after SIGINT or SIGTERM.
_STATUS_AFTER_SIGNAL = 255
# Exit statuses of setpriv without a program, of the linker without a library.
_NEVER_STARTED = frozenset({126, 127})
# ENOSPC, EDQUOT and EFBIG in the C locale.
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")
# From libgcrypt, where memory may not be locked; no error.
_NOISE = "Warning: using insecure memory!\n"
_OUT_OF_MEMORY = re.compile(r"Cannot allocate memory|malloc of size \d+ failed")


@dataclass(frozen=True, slots=True)
class Work:
    """Where long work writes, how it is followed, and its limits."""

    directory: Path  # scratch; the caller removes it
    cancelled: Callable[[], bool]  # asked at least five times a second, in any thread
    report: Callable[[str, float], None]
    """Takes the stage and the share of it that is done."""
    idle_seconds: float = 60.0  # without progress
    limit_per_second: float = 60.0  # for a second of media, besides `limit_seconds`
    limit_seconds: float = _LIMIT_SECONDS
    memory_bytes: int = _MEMORY_BYTES


def file_input(file: Path | str, demuxer: str) -> tuple[str, ...]:
    """Read `file` with this demuxer, and nothing it refers to."""
    return ("-f", demuxer, "-protocol_whitelist", "file,pipe", "-i", f"file:{file}")


def run(
    arguments: Sequence[str], timeout_seconds: float, cancelled: Callable[[], bool] | None = None
) -> bytes:
    """The stdout of ffmpeg or ffprobe; `cancelled` is asked at least five times a second.

    Raises MediaError: failed (with its last messages); `over_limit` over `timeout_seconds`, or with
    too much memory or output. ToolUnusable: not started. MediaProcessDied, Cancelled.
    """
    name = Path(arguments[0]).name
    deadline = time.monotonic() + timeout_seconds
    output = bytearray()

    def check() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(name)
        if time.monotonic() > deadline:
            raise MediaError(f"{name} took longer than {timeout_seconds:g} s", over_limit=True)
        if len(output) > _OUTPUT_BYTES:
            raise MediaError(f"{name} says more than {_OUTPUT_BYTES:,} bytes", over_limit=True)

    with _started(arguments) as process:
        _restrict(process.pid, _SHORT_MEMORY_BYTES)
        status, messages = _follow(process, output.extend, check)
    messages = _without_directories(messages, arguments)
    _require_started(name, status, messages)
    if status != 0:
        raise _failure(name, status, messages)
    return bytes(output)


def run_long(arguments: Sequence[str], media_seconds: float, stage: str, work: Work) -> str:
    """Run ffmpeg on `media_seconds` of media in `work.directory`; its stderr's last 64 KiB.

    `arguments` begin with the path of ffmpeg. It has low priority and no environment but PATH and
    LANG. No process of its group is left. Safe across threads.

    Raises MediaError: failed or crashed (with its last messages); `over_limit` without progress for
    `work.idle_seconds`, over `work.limit_per_second`, or with too much memory. MediaProcessDied,
    Cancelled, DiskFull. ToolUnusable: not started.
    """
    watch = _Watch(media_seconds, stage, work)
    watch.check_cancelled()
    command = [str(Path(arguments[0]).absolute()), *_OPTIONS, *arguments[1:]]
    with _started(command, work.directory) as process:
        _restrict(process.pid, work.memory_bytes)
        status, messages = _follow(process, watch.read, lambda: watch.check(process.pid))
    messages = _without_directories(messages, command)
    _require_started("ffmpeg", status, messages)
    if status != 0:
        raise _failure("ffmpeg", status, messages)
    return messages


class _Watch:
    """Progress and limits of one run."""

    def __init__(self, media_seconds: float, stage: str, work: Work) -> None:
        self._media_seconds = media_seconds
        self._stage = stage
        self._work = work
        self._limit_seconds = work.limit_seconds + work.limit_per_second * media_seconds
        self._started = self._progressed = time.monotonic()
        self._reported = -math.inf
        self._line = b""
        self._done_seconds = 0.0
        self._state = (0.0, 0.0)

    def read(self, data: bytes) -> None:
        """Parse `-progress` lines: key=value."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            key, _, value = line.decode("ascii", "replace").partition("=")
            if key == "out_time_us":
                # N/A before the first packet; below 0 during priming.
                microseconds = _number(value) or 0.0
                self._done_seconds = min(max(0.0, microseconds / 1e6), self._media_seconds)
            elif key == "progress":
                self._report(is_last=value.strip() == "end")

    def _report(self, *, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            share = self._done_seconds / self._media_seconds if self._media_seconds else 0.0
            self._work.report(self._stage, share)

    def check_cancelled(self) -> None:
        if self._work.cancelled():
            raise Cancelled(self._stage)

    def check(self, pid: int) -> None:
        self.check_cancelled()
        now = time.monotonic()
        # ffmpeg reports no time while it seeks or moves the index, but it reads.
        state = (self._done_seconds, _amount_read(pid))
        if state != self._state:
            self._state, self._progressed = state, now
        if now - self._progressed > self._work.idle_seconds:
            reason = f"made no progress for {self._work.idle_seconds:g} s"
        elif now - self._started > self._limit_seconds:
            reason = f"took longer than the limit of {self._limit_seconds:g} s"
        else:
            return
        raise MediaError(f"ffmpeg {reason} ({self._stage})", over_limit=True)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _amount_read(pid: int) -> float:
    """Characters; CPU seconds where the system does not count them. 0 once it has ended."""
    try:
        process = psutil.Process(pid)
        if sys.platform == "linux":
            return process.io_counters().read_chars
        return sum(process.cpu_times())
    except psutil.Error:
        return 0


@contextlib.contextmanager
def _started(
    arguments: Sequence[str], directory: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of which nothing is left. Its environment has no secret, and the C locale.

    It reads its inputs and writes below `directory`.
    """
    name = Path(arguments[0]).name
    program = shutil.which(arguments[0])
    if program is None:
        raise ToolUnusable(f"{name} cannot be started: No such file, or it may not be executed")
    writable = [directory] if directory else []
    # The thread lives as long as the process: its end is a parent's death.
    with confined_thread(_readable(Path(program), arguments), writable) as thread:
        try:
            process = thread.submit(
                subprocess.Popen,
                [*_death_signal_prefix(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
                process_group=0,
            ).result()
        except OSError as error:
            raise ToolUnusable(f"{name} cannot be started: {error.strerror}") from error
        with process:
            try:
                yield process
            finally:
                _stop(process)


def _readable(program: Path, arguments: Sequence[str]) -> Iterator[Path]:
    """The program, its libraries, and its inputs."""
    yield from (program, program.resolve().parent.parent / "lib")
    yield from _inputs(arguments)


def _inputs(arguments: Sequence[str]) -> Iterator[Path]:
    for option, value in pairwise(arguments):
        if option == "-i":
            yield Path(value.removeprefix("file:"))


@functools.cache
def _death_signal_prefix() -> tuple[str, ...]:
    """Without setpriv (util-linux), an encode outlives a killed worker."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL") if setpriv else ()


def _restrict(pid: int, memory_bytes: int) -> None:
    """From outside: code between fork and exec could deadlock in a process with threads."""
    try:
        # Threads have a niceness of their own.
        os.setpriority(os.PRIO_PGRP, pid, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
        if sys.platform == "linux":
            # The lowest but idle, which could starve.
            psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_BE, 7)
            for what, most in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
                _, hard = resource.prlimit(pid, what)
                value = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.prlimit(pid, what, (value, value))
    except (ProcessLookupError, psutil.NoSuchProcess):
        # Its exit status says why.
        return


def _follow(
    process: subprocess.Popen[bytes], receive: Callable[[bytes], None], check: Callable[[], None]
) -> tuple[int, str]:
    """Exit status and last messages. `check`, called at least 5 times a second, may raise."""
    messages = bytearray()

    def keep(data: bytes) -> None:
        messages.extend(data)
        del messages[:-_MESSAGES_BYTES]

    with selectors.DefaultSelector() as selector:
        selector.register(cast("IO[bytes]", process.stdout), selectors.EVENT_READ, receive)
        selector.register(cast("IO[bytes]", process.stderr), selectors.EVENT_READ, keep)
        while selector.get_map():
            # Before the pipes are read: they then hold all.
            has_ended = _has_ended(process)
            ready = selector.select(0 if has_ended else _CHECK_SECONDS)
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK_BYTES)
                if data:
                    key.data(data)
                else:
                    selector.unregister(key.fileobj)
            check()
            if has_ended and not ready:
                # A child process still holds the pipes.
                break
    while not _has_ended(process):
        check()
        time.sleep(_POLL_SECONDS)
    _stop(process)
    return process.returncode, messages.decode("utf-8", "replace").replace(_NOISE, "")


def _without_directories(messages: str, arguments: Sequence[str]) -> str:
    """People who see why a file failed need not see where it was."""
    for file in _inputs(arguments):
        if file.is_absolute():
            messages = messages.replace(f"{file.parent}/", "")
    return messages


def _require_started(name: str, status: int, messages: str) -> None:
    if status in _NEVER_STARTED:
        raise ToolUnusable(
            f"{name} does not start ({status}): {_tail(messages)}"
            " (its files must lie below /usr or in `lib` beside its `bin`)"
        )


def _failure(name: str, status: int, messages: str) -> Exception:
    tail = _tail(messages)
    if status == -signal.SIGXFSZ or _DISK_FULL.search(messages):
        return DiskFull(f"no space left for what {name} writes: {tail}")
    if _OUT_OF_MEMORY.search(messages):
        return MediaError(f"{name} needs more memory than allowed: {tail}", over_limit=True)
    if -status in CRASHES:
        return CommandFailed(f"{name} crashed ({signal.Signals(-status).name}): {tail}")
    if status < 0 or status == _STATUS_AFTER_SIGNAL:
        reason = f"signal {-status}" if status < 0 else "a signal to finish"
        return MediaProcessDied(f"{name} was ended from outside ({reason}): {tail}")
    return CommandFailed(f"{name} failed ({status}): {tail}")


def _tail(messages: str) -> str:
    return messages.strip()[-_MESSAGE_TAIL:]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without reaping it: its id stays taken."""
    if process.returncode is not None:
        return True
    if sys.platform == "linux":
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended is not None
    return psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the group; reap its leader last, so that its id stays taken."""
    if process.returncode is not None:
        return
    try:
        if not _has_ended(process):
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + _TERMINATE_SECONDS
            while not _has_ended(process) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
    finally:
        # Also after an interrupted wait.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
