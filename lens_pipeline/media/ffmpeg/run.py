"""Runs ffmpeg and ffprobe: the only module that starts them."""

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
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import psutil

from lens_pipeline.media.errors import Cancelled, DiskFull, FfmpegDied, MediaError, ToolUnusable

# Seconds that a process gets to finish after SIGTERM before it is killed.
_TERMINATE_SECONDS = 2.0
_POLL_SECONDS = 0.01
# How often a running process is looked at, and one that is about to end.
_CHECK_SECONDS = 0.1
_CHUNK_BYTES = 1 << 16
# Characters of ffmpeg's messages that are repeated in an error: the last lines say why.
_MESSAGE_TAIL = 400
# Of ffmpeg's messages that are kept: warnings come by the line, damage can bring millions.
_MESSAGES_BYTES = 64 * 1024
# -y: over a file that exists, ffmpeg without a terminal does nothing and calls that a success.
_OPTIONS = ("-nostdin", "-hide_banner", "-y", "-nostats", "-progress", "pipe:1")
_REPORT_SECONDS = 0.5
# What a long run may take at least, beside what its media adds: start-up on a busy machine.
_LIMIT_SECONDS = 120.0
_NICENESS = 10
# Address space: x264 takes 1.5 GB for 2160p, and each of its threads reserves more.
_MEMORY_BYTES = 8 << 30
# Of a process that ends itself: damage makes it do so again.
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
)
# ffmpeg's own exit status after SIGINT or SIGTERM.
_STATUS_AFTER_SIGNAL = 255
# Of setpriv, if it cannot execute what it is to start, and of the dynamic linker, if a library is
# missing.
_NEVER_STARTED = frozenset({126, 127})
# ENOSPC, EDQUOT and EFBIG in the C locale.
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")
# Of libgcrypt, which Debian's ffmpeg is linked with, where memory may not be locked: no complaint
# about a file, whose check must be silent.
_NOISE = "Warning: using insecure memory!\n"
_OUT_OF_MEMORY = re.compile(r"Cannot allocate memory|malloc of size \d+ failed")


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work that takes long: where it writes, and who follows it."""

    directory: Path
    """Scratch for this piece of work; the caller removes it."""
    cancelled: Callable[[], bool]
    """Whether to stop: asked at least five times a second, in any thread."""
    report: Callable[[str, float, float | None], None]
    """Told the stage, the share of it that is done, and the speed (x real time) if it is known."""
    idle_seconds: float = 60.0
    """How long ffmpeg may make no progress."""
    limit_per_second: float = 60.0
    """Seconds that ffmpeg may take for a second of media, beside `limit_seconds`."""
    limit_seconds: float = _LIMIT_SECONDS
    memory_bytes: int = _MEMORY_BYTES


def run(
    arguments: Sequence[str], timeout_seconds: float, cancelled: Callable[[], bool] | None = None
) -> bytes:
    """Run ffmpeg or ffprobe in a process group of its own and return what it writes to stdout.

    However this ends, no process of the group is left.

    Raises MediaError: failed (with its last messages), or over `timeout_seconds`. ToolUnusable: not
    started. Cancelled: `cancelled`, which is asked at least five times a second, said so.
    """
    name = Path(arguments[0]).name
    deadline = time.monotonic() + timeout_seconds
    output = bytearray()

    def check() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(name)
        if time.monotonic() > deadline:
            raise MediaError(f"{name} took longer than {timeout_seconds:g} s", over_limit=True)

    with _started(arguments) as process:
        status, messages = _follow(process, output.extend, check)
    _require_started(name, status, messages)
    if status != 0:
        raise MediaError(f"{name} failed ({status}): {_tail(messages)}")
    return bytes(output)


def run_long(arguments: Sequence[str], media_seconds: float, stage: str, work: Work) -> str:
    """Run ffmpeg on `media_seconds` of media in `work.directory`; return its stderr's last 64 KiB.

    `arguments` begin with the path of ffmpeg; options for reporting progress and overwriting are
    added here. It runs at low priority in a process group of its own, with no environment but PATH
    and LANG. However this ends, no process of the group is left. Several threads may call this at
    once.

    Raises MediaError: failed or crashed (with its last messages); `over_limit` if it made no
    progress for `work.idle_seconds`, took longer than `work.limit_per_second` allows, or needed
    more memory than allowed. FfmpegDied: ended by a signal from outside. Cancelled:
    `work.cancelled` said so. DiskFull: nothing more could be written. ToolUnusable: not started.
    """
    watch = _Watch(media_seconds, stage, work)
    watch.check_cancelled()
    command = [str(Path(arguments[0]).absolute()), *_OPTIONS, *arguments[1:]]
    with _started(command, work.directory) as process:
        _restrict(process.pid, work.memory_bytes)
        status, messages = _follow(process, watch.read, lambda: watch.check(process.pid))
    _require_started("ffmpeg", status, messages)
    if status != 0:
        raise _failure(status, messages)
    return messages


class _Watch:
    """Follows one run: reports its progress, and raises when it has to end."""

    def __init__(self, media_seconds: float, stage: str, work: Work) -> None:
        self._media_seconds = media_seconds
        self._stage = stage
        self._work = work
        self._limit_seconds = work.limit_seconds + work.limit_per_second * media_seconds
        self._started = self._progressed = time.monotonic()
        self._reported = -math.inf
        self._line = b""
        self._done_seconds = 0.0
        self._speed: float | None = None
        self._state: tuple[float, int] = (0.0, 0)

    def read(self, data: bytes) -> None:
        """Take in a part of what `-progress` writes: blocks of key=value lines."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            key, _, value = line.decode("ascii", "replace").partition("=")
            if key == "out_time_us":
                # N/A before the first packet; below 0 while there is nothing but priming.
                microseconds = _number(value) or 0.0
                self._done_seconds = min(max(0.0, microseconds / 1e6), self._media_seconds)
            elif key == "speed":
                self._speed = _number(value.strip().removesuffix("x"))
            elif key == "progress":
                self._report(is_last=value.strip() == "end")

    def _report(self, *, is_last: bool) -> None:
        now = time.monotonic()
        if is_last or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            share = self._done_seconds / self._media_seconds if self._media_seconds else 0.0
            self._work.report(self._stage, share, self._speed)

    def check_cancelled(self) -> None:
        if self._work.cancelled():
            raise Cancelled(self._stage)

    def check(self, pid: int) -> None:
        self.check_cancelled()
        now = time.monotonic()
        # ffmpeg reports no time while it seeks or moves the index to the front, but it reads.
        state = (self._done_seconds, _characters_read(pid))
        if state != self._state:
            self._state, self._progressed = state, now
        if now - self._progressed > self._work.idle_seconds:
            raise MediaError(
                f"ffmpeg made no progress for {self._work.idle_seconds:g} s ({self._stage})",
                over_limit=True,
            )
        if now - self._started > self._limit_seconds:
            raise MediaError(
                f"ffmpeg took longer than the limit of {self._limit_seconds:g} s ({self._stage})",
                over_limit=True,
            )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _characters_read(pid: int) -> int:
    """Bytes the process has read by any means; 0 once it has ended."""
    try:
        return psutil.Process(pid).io_counters().read_chars
    except psutil.Error:
        return 0


@contextlib.contextmanager
def _started(
    arguments: Sequence[str], directory: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, of which nothing is left when the context ends.

    Its environment holds no setting or credential; in the C locale messages are as expected here.
    """
    name = Path(arguments[0]).name
    if shutil.which(arguments[0]) is None:
        raise ToolUnusable(f"{name} cannot be started: No such file, or it may not be executed")
    try:
        process = subprocess.Popen(
            [*_ending_with_us(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
            process_group=0,
        )
    except OSError as error:
        raise ToolUnusable(f"{name} cannot be started: {error.strerror}") from error
    # Closes its pipes.
    with process:
        try:
            yield process
        finally:
            _stop(process)


@functools.cache
def _ending_with_us() -> tuple[str, ...]:
    """What has the kernel kill a process when the thread that started it, and waits, is gone.

    ffmpeg itself goes on when nobody reads its progress any more. Where there is no setpriv
    (util-linux), an encode outlives a worker that was killed until it has finished.
    """
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL") if setpriv else ()


def _restrict(pid: int, memory_bytes: int) -> None:
    """Let others go first, and bound what a decoder that runs wild can take.

    From here, not between fork and exec: code there may deadlock in a process with threads.
    """
    try:
        # Of the group: threads that exist already have a niceness of their own.
        os.setpriority(os.PRIO_PGRP, pid, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
        # The last to be served of those that are served at all: idle could starve.
        psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_BE, 7)
        _lower_limit(pid, resource.RLIMIT_AS, memory_bytes)
        _lower_limit(pid, resource.RLIMIT_CORE, 0)
    except (ProcessLookupError, psutil.NoSuchProcess):
        # It has ended already, which its exit status explains.
        return


def _lower_limit(pid: int, what: int, value: int) -> None:
    _, hard = resource.prlimit(pid, what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.prlimit(pid, what, (value, value))


def _follow(
    process: subprocess.Popen[bytes],
    receive: Callable[[bytes], None],
    check: Callable[[], None],
) -> tuple[int, str]:
    """Hand on what `process` writes to stdout until it ends; its exit status and last messages.

    `check` is called at least five times a second and may raise to give up.
    """
    messages = bytearray()

    def keep(data: bytes) -> None:
        messages.extend(data)
        del messages[:-_MESSAGES_BYTES]

    with selectors.DefaultSelector() as selector:
        selector.register(cast("IO[bytes]", process.stdout), selectors.EVENT_READ, receive)
        selector.register(cast("IO[bytes]", process.stderr), selectors.EVENT_READ, keep)
        while selector.get_map():
            # Looked at first: what was written before the end is then in the pipes already.
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
                # A child of its own still holds the pipes.
                break
    while not _has_ended(process):
        check()
        time.sleep(_POLL_SECONDS)
    _stop(process)
    return process.returncode, messages.decode("utf-8", "replace").replace(_NOISE, "")


def _require_started(name: str, status: int, messages: str) -> None:
    if status in _NEVER_STARTED:
        raise ToolUnusable(f"{name} does not start ({status}): {_tail(messages)}")


def _failure(status: int, messages: str) -> Exception:
    tail = _tail(messages)
    if status == -signal.SIGXFSZ or _DISK_FULL.search(messages):
        return DiskFull(f"no space left for what ffmpeg writes: {tail}")
    if _OUT_OF_MEMORY.search(messages):
        return MediaError(f"ffmpeg needs more memory than allowed: {tail}", over_limit=True)
    if -status in _CRASHES:
        return MediaError(f"ffmpeg crashed ({signal.Signals(-status).name}): {tail}")
    if status < 0 or status == _STATUS_AFTER_SIGNAL:
        reason = f"signal {-status}" if status < 0 else "a signal to finish"
        return FfmpegDied(f"ffmpeg was ended from outside ({reason}): {tail}")
    return MediaError(f"ffmpeg failed ({status}): {tail}")


def _tail(messages: str) -> str:
    return messages.strip()[-_MESSAGE_TAIL:]


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process has ended; it is not reaped, so that its id stays its own."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the group, and reap its leader last: until then the id is not reused."""
    if process.returncode is not None:
        return
    try:
        if not _has_ended(process):
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + _TERMINATE_SECONDS
            while not _has_ended(process) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
    finally:
        # Also if the wait was interrupted.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
