"""Running ffmpeg for minutes: followed, stoppable, bounded."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from lens_pipeline.media.errors import (
    Cancelled,
    CommandFailed,
    DiskFull,
    MediaError,
    MediaProcessDied,
    ToolUnusable,
)
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools, find_ffmpeg, find_ffprobe

Report = tuple[str, float]


class _Follower:
    """Keeps what is reported, and cancels when told."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.times: list[float] = []
        self.stop = threading.Event()
        self.on_report: Callable[[], None] = lambda: None

    def report(self, stage: str, share: float) -> None:
        self.reports.append((stage, share))
        self.times.append(time.monotonic())
        self.on_report()

    def work(
        self, directory: Path, idle: float = 60.0, per_second: float = 60.0, **limits: Any
    ) -> Work:
        return Work(directory, self.stop.is_set, self.report, idle, per_second, **limits)


@pytest.fixture
def follower() -> _Follower:
    return _Follower()


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """What every test here is also about."""
    before = set(psutil.Process().children(recursive=True))
    yield
    # Orphans of a killed group are reaped by another process.
    psutil.wait_procs(_others(before), timeout=2)
    assert _others(before) == []


def _others(before: set[psutil.Process]) -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p not in before]


def _pattern(seconds: float, rate: int = 25, real_time: bool = False) -> list[str]:
    """Arguments that encode a test picture, as slowly as it plays if asked."""
    source = f"testsrc2=size=160x90:rate={rate}:duration={seconds}"
    pace = ["-re"] if real_time else []
    encoder = ["-c:v", "libx264", "-preset", "ultrafast"]
    return [str(find_ffmpeg()), "-loglevel", "error", *pace, "-f", "lavfi", "-i", source, *encoder]


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def _new_child(known: Sequence[psutil.Process]) -> psutil.Process:
    """The process that was started, once it is there; other tests may have left some running."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for child in psutil.Process().children():
            if child not in known:
                return child
        time.sleep(0.01)
    raise AssertionError("no process was started")


def _later(action: Callable[[psutil.Process], None], seconds: float = 0.3) -> threading.Thread:
    """Do something to the process soon after it was started."""

    known = psutil.Process().children()

    def wait_and_act() -> None:
        process = _new_child(known)
        time.sleep(seconds)
        action(process)

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_progress_is_a_share_that_rises(tmp_path: Path, follower: _Follower) -> None:
    """A bar that stands still for minutes, jumps back, or passes 100 %."""
    run_long([*_pattern(1.6, real_time=True), "out.mp4"], 1.6, "encoding", follower.work(tmp_path))
    stages, shares = zip(*follower.reports, strict=True)
    assert set(stages) == {"encoding"}
    assert list(shares) == sorted(shares)
    assert 0.2 < shares[-1] <= 1
    # At most two a second, and the end.
    assert 2 <= len(follower.times) <= 5
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(follower.times[:-1]))
    # Relative names are within the directory of the work.
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_what_a_library_says_of_the_machine_is_no_complaint_about_a_file(
    tmp_path: Path, follower: _Follower
) -> None:
    """Every master refused as damaged where systemd or a container lets no memory be locked."""
    noisy = _script(
        tmp_path / "ffmpeg",
        "echo 'Warning: using insecure memory!' >&2; echo torn >&2",
    )
    assert run_long([noisy], 1, "checking", follower.work(tmp_path)) == "torn\n"


def test_a_file_that_exists_is_written_anew(tmp_path: Path, follower: _Follower) -> None:
    """What an interrupted attempt left, taken for the result: ffmpeg says 0 when it skips it."""
    (tmp_path / "out.mp4").write_text("left over")
    run_long([*_pattern(0.2), "out.mp4"], 0.2, "encoding", follower.work(tmp_path))
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_progress_stays_within_the_length_even_if_the_output_is_longer(
    tmp_path: Path, follower: _Follower
) -> None:
    """130 % done."""
    run_long([*_pattern(2), "out.mp4"], 0.5, "encoding", follower.work(tmp_path))
    assert follower.reports[-1][1] == 1


def test_warnings_of_a_run_that_succeeds_are_returned(tmp_path: Path, follower: _Follower) -> None:
    """A damaged frame that ffmpeg mentions and nobody hears of."""
    noisy = _script(tmp_path / "ffmpeg", "echo 'concealing 40 errors' >&2; echo progress=end")
    assert run_long([noisy], 1, "checking", follower.work(tmp_path)) == "concealing 40 errors\n"


def test_messages_are_bounded_and_the_last_are_kept(tmp_path: Path, follower: _Follower) -> None:
    """A damaged file whose million warnings fill the memory."""
    script = "i=0; while [ $i -lt 20000 ]; do echo warning $i >&2; i=$((i+1)); done"
    messages = run_long(
        [_script(tmp_path / "ffmpeg", script)], 1, "checking", follower.work(tmp_path)
    )
    assert len(messages) == 64 * 1024
    assert messages.endswith("warning 19999\n")


def test_a_failure_says_what_ffmpeg_said(tmp_path: Path, follower: _Follower) -> None:
    """'Exit status 1' and nothing else."""
    arguments = [*_pattern(1), "-vf", "nosuchfilter", "out.mp4"]
    with pytest.raises(CommandFailed, match=r"(?s)^ffmpeg failed \(\d+\): .*nosuchfilter") as e:
        run_long(arguments, 1, "encoding", follower.work(tmp_path))
    assert not e.value.over_limit


def test_a_program_that_is_not_there_is_named(tmp_path: Path, follower: _Follower) -> None:
    """A FileNotFoundError that looks as if the video were missing."""
    with pytest.raises(ToolUnusable, match="ffmpeg cannot be started: No such file"):
        run_long([str(tmp_path / "ffmpeg")], 1, "encoding", follower.work(tmp_path))


def test_cancelling_ends_ffmpeg_at_once(tmp_path: Path, follower: _Follower) -> None:
    """A cancelled master that keeps both cores busy for ten more minutes."""
    cancelled_at = []

    def cancel(process: psutil.Process) -> None:
        cancelled_at.append(time.monotonic())
        follower.stop.set()

    canceller = _later(cancel)
    with pytest.raises(Cancelled):
        run_long([*_pattern(60, real_time=True), "o.mp4"], 60, "encoding", follower.work(tmp_path))
    assert time.monotonic() - cancelled_at[0] < 0.5
    canceller.join()


def test_nothing_is_started_for_work_that_was_cancelled_before(
    tmp_path: Path, follower: _Follower
) -> None:
    """A process per shot for a master that nobody wants."""
    follower.stop.set()
    with pytest.raises(Cancelled):
        run_long([_script(tmp_path / "ffmpeg", "touch started")], 1, "x", follower.work(tmp_path))
    assert not (tmp_path / "started").exists()


@pytest.mark.slow
def test_a_stopped_ffmpeg_is_ended_by_the_watchdog(tmp_path: Path, follower: _Follower) -> None:
    """A hanging process that holds its slot for hours; stopped, it ignores SIGTERM as well."""
    stopper = _later(lambda process: process.suspend())
    with pytest.raises(MediaError, match=r"no progress for 0\.5 s \(encoding\)") as e:
        run_long(
            [*_pattern(60, real_time=True), "out.mp4"],
            60,
            "encoding",
            follower.work(tmp_path, idle=0.5),
        )
    assert e.value.over_limit
    stopper.join()


@pytest.mark.slow
def test_an_input_that_never_delivers_is_given_up(tmp_path: Path, follower: _Follower) -> None:
    """ffmpeg that reports progress twice a second but makes none."""
    os.mkfifo(tmp_path / "in.mp4")
    # Open for writing, so that opening for reading does not wait.
    writer = os.open(tmp_path / "in.mp4", os.O_RDWR)
    command = [str(find_ffmpeg()), "-f", "mov", "-i", "file:in.mp4", "-f", "null", "-"]
    with pytest.raises(MediaError, match=r"no progress for 0\.8 s") as e:
        run_long(command, 1, "checking", follower.work(tmp_path, idle=0.8))
    assert e.value.over_limit
    os.close(writer)


@pytest.mark.slow
def test_reading_counts_as_progress(tmp_path: Path, follower: _Follower) -> None:
    """A seek or the move of the index of a long master, taken for a hang."""
    reading = _script(
        tmp_path / "ffmpeg", "for i in 1 2 3 4 5 6 7 8; do sleep 0.2; read line < data; done"
    )
    (tmp_path / "data").write_text("line\n")
    run_long([reading], 1, "joining", follower.work(tmp_path, idle=0.6))


@pytest.mark.slow
def test_an_encode_that_goes_on_and_on_hits_the_hard_limit(
    tmp_path: Path, follower: _Follower
) -> None:
    """A file that makes an encoder progress for ever."""
    with pytest.raises(MediaError, match=r"longer than the limit of 0\.7 s \(encoding\)") as e:
        run_long(
            [*_pattern(60, real_time=True), "out.mp4"],
            2,
            "encoding",
            follower.work(tmp_path, per_second=0.1, limit_seconds=0.5),
        )
    assert e.value.over_limit


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_from_outside_is_told_from_a_bad_file(
    tmp_path: Path, follower: _Follower, sent: signal.Signals
) -> None:
    """A good video that fails for good since memory was short once."""
    killer = _later(lambda process: process.send_signal(sent))
    with pytest.raises(MediaProcessDied, match="ended from outside"):
        run_long(
            [*_pattern(60, real_time=True), "out.mp4"], 60, "encoding", follower.work(tmp_path)
        )
    killer.join()


def test_a_crash_is_told_from_a_kill(tmp_path: Path, follower: _Follower) -> None:
    """A file that crashes the decoder, tried again for ever."""
    crashing = _script(tmp_path / "ffmpeg", "kill -SEGV $$")
    with pytest.raises(MediaError, match=r"ffmpeg crashed \(SIGSEGV\)") as e:
        run_long([crashing], 1, "checking", follower.work(tmp_path))
    assert not isinstance(e.value, MediaProcessDied)


def test_a_full_disk_is_told_from_a_bad_file(follower: _Follower) -> None:
    """Every video marked as broken for good by one full disk."""
    with pytest.raises(DiskFull, match="No space left on device"):
        run_long(
            # Without it, FFmpeg 5 says 0.
            [*_pattern(1), "-xerror", "-f", "mpegts", "full"],
            1,
            "joining",
            follower.work(Path("/dev")),
        )


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path, follower: _Follower) -> None:
    """A limit of the service, which ends ffmpeg by a signal: not a crash, no fault of the file."""

    def limit(process: psutil.Process) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))

    limiter = _later(limit, seconds=0.1)
    with pytest.raises(DiskFull):
        run_long(
            [*_pattern(60, real_time=True), "-flush_packets", "1", "-f", "mpegts", "out.ts"],
            60,
            "joining",
            follower.work(tmp_path),
        )
    limiter.join()


def test_too_little_memory_is_a_limit(tmp_path: Path, follower: _Follower) -> None:
    """A file called broken that is only large."""
    large = "color=black:size=7680x4320:rate=5:duration=20"
    command = [str(find_ffmpeg()), "-f", "lavfi", "-i", large, "-c:v", "libx264", "out.mp4"]
    # The encoder of FFmpeg 5 waits for threads that could not begin.
    with pytest.raises(MediaError, match="memory|no progress") as e:
        run_long(command, 20, "encoding", follower.work(tmp_path, idle=8, memory_bytes=300 << 20))
    assert e.value.over_limit


def test_ffmpeg_gets_no_secret_a_low_priority_and_limits(
    tmp_path: Path, follower: _Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A taken-over decoder that finds the keys of the object store; a UI that waits for encodes."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/db")
    fake = _script(
        tmp_path / "ffmpeg",
        "sleep 0.3; env; nice; ulimit -c; ulimit -v; pwd; ionice -p $$ || echo none",
    )
    shown = run_long(
        [_script(tmp_path / "both", f"exec {fake} >&2")], 1, "x", follower.work(tmp_path)
    ).splitlines()
    names = {line.partition("=")[0] for line in shown if "=" in line}
    # PWD, _ and the like are the shell's own.
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "LANG"}
    assert not any("hunter2" in line for line in shown)
    assert shown[-5:-3] == ["10", "0"]
    assert shown[-3:-1] == [str(8 << 20), str(tmp_path)]
    assert shown[-1] == "best-effort: prio 7"


def test_its_children_are_ended_too(tmp_path: Path, follower: _Follower) -> None:
    """A wrapper script as ffmpeg, whose real process goes on."""
    run_long(
        [_script(tmp_path / "ffmpeg", "sleep 60 & echo $! > child")],
        1,
        "x",
        follower.work(tmp_path),
    )
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 2
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_the_caller_ends_ffmpeg(
    tmp_path: Path, follower: _Follower, error: type[BaseException]
) -> None:
    """Ctrl-C at the terminal, and ffmpeg goes on."""

    def fail() -> None:
        raise error

    follower.on_report = fail
    with pytest.raises(error):
        run_long(
            [*_pattern(60, real_time=True), "out.mp4"], 60, "encoding", follower.work(tmp_path)
        )


def test_several_run_at_once_and_are_cancelled_together(
    tmp_path: Path, follower: _Follower
) -> None:
    """Runs that take each other's output, or of which only one hears that it has to stop."""
    work = follower.work(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        shorts = [
            pool.submit(run_long, [*_pattern(n), f"{n}.mp4"], n, f"shot {n}", work)
            for n in range(1, 4)
        ]
        for done in shorts:
            done.result()
        ends = dict(follower.reports)
        longs = [
            pool.submit(run_long, [*_pattern(60, real_time=True), f"{n}.mp4"], 60, "long", work)
            for n in range(3)
        ]
        time.sleep(0.3)
        follower.stop.set()
        started = time.monotonic()
        assert [type(future.exception()) for future in longs] == [Cancelled] * 3
        assert time.monotonic() - started < 1.5
    assert all(0 < ends[f"shot {n}"] <= n for n in range(1, 4))


def test_the_tools_are_found() -> None:
    """Tools whose ffmpeg is an ffprobe."""
    assert Tools.find() == Tools(find_ffmpeg(), find_ffprobe())
    assert Tools.find().ffmpeg != Tools.find().ffprobe


def test_ffmpeg_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    """An encode of an hour for a worker that was killed, beside the one that tries again."""
    code = (
        "import sys; from pathlib import Path; from lens_pipeline.media.ffmpeg.run import *;"
        "from lens_pipeline.media.ffmpeg.tools import find_ffmpeg;"
        "work = Work(Path(sys.argv[1]), lambda: False, lambda *_: print('.', flush=True));"
        "run_long([str(find_ffmpeg()), '-re', '-f', 'lavfi', '-i', 'testsrc2', '-f', 'null', '-'],"
        " 60.0, 'test', work)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent:
        assert parent.stdout.readline() == ".\n"
        (ffmpeg,) = psutil.Process(parent.pid).children()
        parent.kill()
    deadline = time.monotonic() + 5
    # Whoever inherits it may be slow to bury it.
    while ffmpeg.is_running() and ffmpeg.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
