"""Shots that cannot be joined, and joins that do not end by themselves."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from lens_pipeline.media.concat import verify
from lens_pipeline.media.concat.join import join
from lens_pipeline.media.errors import Cancelled, DiskFull, MediaError, MediaProcessDied, ShotError
from lens_pipeline_tests.media.concat.shots import (
    FRAMES,
    H264,
    TOOLS,
    VP9,
    Make,
    Recipe,
    actions,
    check_master,
    damage,
    source,
    work_in,
)
from lens_pipeline_tests.media.samples import quadrants, save, write_audio_only

# Detail that takes bytes: damage has to hit the picture, wherever it is.
_DETAILED = Recipe(
    "detailed", filters="noise=alls=40:allf=t", coding=(*H264, "-g", "10", "-crf", "18"), tone=0
)
# Takes long enough to be interrupted in any stage.
_LARGE = Recipe("large", size="1280x720", rate="50", seconds=2, coding=(*H264, "-crf", "40"))


@pytest.fixture
def detailed(make: Make) -> Path:
    return make(_DETAILED)


@pytest.fixture
def large(make: Make) -> Path:
    return make(_LARGE)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """What every test here is also about."""
    before = _children()
    yield
    psutil.wait_procs(_children() - before, timeout=2)
    assert _children() - before == set()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_damage_in_a_shot_that_would_be_copied_is_named_with_its_time(
    detailed: Path, tmp_path: Path, position: int
) -> None:
    paths = [detailed] * 3
    paths[position] = damage(tmp_path / "broken.mp4", detailed, 0.5)
    with pytest.raises(ShotError, match=r"damaged at 0\.[3-6] s") as caught:
        join([source(path) for path in paths], TOOLS, work_in(tmp_path / "work"))
    assert (caught.value.shot, caught.value.over_limit) == ("broken", False)


def test_damage_in_a_shot_that_would_be_encoded_is_named_with_its_time(
    plain: Path, detailed: Path, tmp_path: Path
) -> None:
    broken = damage(tmp_path / "broken.mp4", detailed, 0.5)
    sources = [source(path) for path in (plain, broken, plain)]
    with pytest.raises(ShotError, match=r"damaged at 0\.[3-6] s") as caught:
        join(sources, TOOLS, work_in(tmp_path / "work"))
    assert (caught.value.shot, caught.value.over_limit) == ("broken", False)


def _truncated(path: Path, plain: Path) -> None:
    data = plain.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _truncated_after_index(path: Path, plain: Path) -> None:
    # Written as a web server does: the index first, so that it looks whole.
    whole = Recipe("whole", coding=(*H264, "-movflags", "+faststart")).make(path.parent)
    _truncated(path, whole)


def _truncated_webm(path: Path, plain: Path) -> None:
    _truncated(path, Recipe("whole", coding=VP9, container="webm", tone=0).make(path.parent))


def _truncated_fragments(path: Path, plain: Path) -> None:
    # As a browser or a packager records.
    flags = ("-g", "5", "-movflags", "+frag_keyframe+empty_moov")
    _truncated(path, Recipe("whole", coding=(*H264, *flags)).make(path.parent))


def _empty(path: Path, plain: Path) -> None:
    path.touch()


def _empty_media_data(path: Path, plain: Path) -> None:
    data = plain.read_bytes()
    start = data.index(b"mdat") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + b"\0\0\0\x08mdat" + data[start + size :])


def _audio_only(path: Path, plain: Path) -> None:
    write_audio_only(path)


def _jpeg(path: Path, plain: Path) -> None:
    save(quadrants(), path, "JPEG")


def _avif(path: Path, plain: Path) -> None:
    save(quadrants(), path, "AVIF")


def _playlist(path: Path, plain: Path) -> None:
    path.write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{plain}\n")


def _list_of_files(path: Path, plain: Path) -> None:
    path.write_text(f"ffconcat version 1.0\nfile '{plain}'\n")


def _text(path: Path, plain: Path) -> None:
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20)


def _mpeg2(path: Path, plain: Path) -> None:
    Recipe(path.stem, coding=("-c:v", "mpeg2video")).make(path.parent)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncated, r"incomplete: it has no index"),
        (_truncated_after_index, r"truncated"),
        (_truncated_webm, r"truncated: it ends at 0\.\d s of 0\.8 s"),
        (_truncated_fragments, r"truncated: the file ends within a fragment, before 0\.[4-8] s"),
        (_empty, "empty file"),
        (_empty_media_data, r"truncated|damaged|no frames"),
        (_audio_only, "no video track, only audio"),
        (_jpeg, "not a video"),
        (_avif, "not a video but a picture: AVIF"),
        (_playlist, "not a video but a playlist"),
        (_list_of_files, "not a video but a list of files"),
        (_text, "not a video: starts with"),
        (_mpeg2, "coded with mpeg2video, which is not supported"),
    ],
)
def test_what_is_no_whole_video_is_named(
    spoil: Callable[[Path, Path], None], reason: str, plain: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    spoil(bad, plain)
    sources = [source(path) for path in (plain, bad, plain)]
    with pytest.raises(ShotError, match=reason) as caught:
        join(sources, TOOLS, work_in(tmp_path / "work"))
    assert (caught.value.shot, caught.value.over_limit) == ("bad", False)


def test_nothing_to_join_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="at least one shot"):
        join([], TOOLS, work_in(tmp_path / "work"))


class _Interrupted:
    """Sends a signal to the ffmpeg that encodes, as soon as it is there."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self._known = _children()
        self.sent = threading.Event()

    def cancelled(self) -> bool:
        """Never; but asked several times a second while ffmpeg runs."""
        if not self.sent.is_set():
            for process in _children() - self._known:
                if _encodes(process):
                    self.sent.set()
                    os.kill(process.pid, self._number)
        return False


def _encodes(process: psutil.Process) -> bool:
    try:
        return "libx264" in process.cmdline()
    except psutil.NoSuchProcess:
        # Of another shot, and done.
        return False


@pytest.mark.slow
def test_an_ffmpeg_that_hangs_is_ended(plain: Path, large: Path, tmp_path: Path) -> None:
    stopped = _Interrupted(signal.SIGSTOP)
    work = work_in(tmp_path / "work", stopped.cancelled, idle_seconds=1)
    sources = [source(path) for path in (plain, large, plain)]
    started = time.monotonic()
    with pytest.raises(MediaError, match="no progress for 1 s") as caught:
        join(sources, TOOLS, work)
    assert stopped.sent.is_set()
    assert caught.value.over_limit
    # Stopped, it does not hear that it should end either: two seconds later it is killed.
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_an_ffmpeg_that_is_killed_may_be_tried_again(
    plain: Path, large: Path, tmp_path: Path
) -> None:
    killed = _Interrupted(signal.SIGKILL)
    work = work_in(tmp_path / "work", killed.cancelled)
    with pytest.raises(MediaProcessDied, match="signal 9"):
        join([source(path) for path in (plain, large, plain)], TOOLS, work)
    assert killed.sent.is_set()


@pytest.mark.parametrize("stage", ["checking", "unpacking", "encoding", "joining", "verifying"])
def test_cancelling_ends_any_stage_at_once(
    stage: str, plain: Path, large: Path, tmp_path: Path
) -> None:
    asked: list[float] = []

    def report(now: str, share: float) -> None:
        if now.startswith(stage) and not asked:
            asked.append(time.monotonic())

    work = work_in(tmp_path / "work", lambda: bool(asked), report)
    before = _children()
    with pytest.raises(Cancelled):
        join([source(path) for path in (plain, large, plain)], TOOLS, work)
    assert time.monotonic() - asked[0] < 0.5
    assert _children() == before
    assert not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())


def _files(directory: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_nothing_is_written_outside_the_work_directory(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("TMPDIR", str(temporary))
    # Of a shot's name nothing may become a path.
    odd = Recipe("..%2F-i 'odd' $(touch x)", rate="30").make(tmp_path)
    before = _files(tmp_path) | _files(plain.parent)
    work = work_in(tmp_path / "work")
    master = join([source(path) for path in (plain, odd, plain)], TOOLS, work)
    assert master.path.parent == work.directory
    after = _files(tmp_path) | _files(plain.parent)
    written = {path for path in after if after[path] != before.get(path)}
    assert written
    assert {path.parent for path in written} == {work.directory}
    assert before.keys() <= after.keys()


def _fail_verification(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    real = verify.check_structure
    attempts = count()

    def check(*arguments: Any) -> None:
        if next(attempts) < times:
            raise MediaError("a frame is missing in the master")
        real(*arguments)

    monkeypatch.setattr(verify, "check_structure", check)


def test_a_master_that_is_not_proved_is_made_again_by_encoding_all(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_verification(monkeypatch, times=1)
    master = join([source(plain)] * 2, TOOLS, work_in(tmp_path / "work"))
    assert master.fallback == "a frame is missing in the master"
    assert (master.method, actions(master)) == ("encode", ["encode"] * 2)
    reason = "verification failed: a frame is missing in the master"
    assert {shot.reason for shot in master.shots} == {reason}
    assert len(check_master(master)) == 2 * FRAMES


def test_a_master_that_is_not_proved_twice_is_an_error(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_verification(monkeypatch, times=2)
    with pytest.raises(MediaError, match="cannot be verified: a frame is missing") as caught:
        join([source(plain)] * 2, TOOLS, work_in(tmp_path / "work"))
    assert not caught.value.over_limit
    assert not list((tmp_path / "work").glob("master*"))


def test_a_full_disk_is_told_as_such(plain: Path, tmp_path: Path) -> None:
    work = work_in(tmp_path / "work")
    (work.directory / "master.mp4").symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        join([source(plain)], TOOLS, work)
