"""Finding and running ffmpeg."""

import errno
import logging
import signal
import stat
import time
from pathlib import Path

import psutil
import pytest

from lens_pipeline.errors import Failure
from lens_pipeline.media.errors import MediaError, MediaProcessDied, ToolUnusable
from lens_pipeline.media.ffmpeg import tools
from lens_pipeline.media.ffmpeg.ffprobe import describe
from lens_pipeline.media.ffmpeg.run import file_input, run


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_encoders_of_the_found_ffmpeg_are_listed() -> None:
    """A doctor that finds libx264 in an ffmpeg without it."""
    encoders = tools.capabilities(tools.find_ffmpeg())
    assert {"libx264", "libwebp", "aac"} <= encoders
    assert "h264" not in encoders


@pytest.mark.parametrize("encoder", ["libx264", "libwebp"])
def test_an_encoder_that_works_is_told_from_one_that_does_not(encoder: str) -> None:
    """An ffmpeg that lists an encoder whose library it cannot load."""
    found = tools.find_ffmpeg()
    tools.try_encoder(found, encoder)
    with pytest.raises(MediaError, match="Unknown encoder 'libnothing'"):
        tools.try_encoder(found, "libnothing")


def test_ffprobe_is_found() -> None:
    """A wheel that names its binaries differently."""
    assert b"ffprobe version" in run([str(tools.find_ffprobe()), "-version"], 10)


def test_an_explicit_path_wins_over_the_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting without effect."""
    (tmp_path / "bin").mkdir()
    on_path = _script(tmp_path / "bin" / "ffmpeg", "")
    mine = _script(tmp_path / "mine", "")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert tools.find_ffmpeg() == on_path
    assert tools.find_ffmpeg(mine) == mine
    with pytest.raises(ToolUnusable, match=r"was not found at .*absent"):
        tools.find_ffmpeg(tmp_path / "absent")


def test_a_failure_carries_the_last_messages(tmp_path: Path) -> None:
    """'Exit status 1' and nothing else."""
    failing = _script(tmp_path / "ffmpeg", "echo the reason >&2; exit 3")
    with pytest.raises(MediaError, match=r"ffmpeg failed \(3\): the reason"):
        run([str(failing)], 10)


def test_a_failure_names_the_file_and_not_its_directory(tmp_path: Path) -> None:
    """Where a server keeps its files, told to everyone who may see that one is damaged."""
    video = tmp_path / "video"
    video.write_bytes(b"no video")
    command = [str(tools.find_ffprobe()), "-v", "error", *file_input(video, "mov")]
    with pytest.raises(MediaError, match="video: Invalid data") as e:
        run(command, 10)
    assert str(tmp_path) not in str(e.value)
    failure = Failure.of(FileNotFoundError(errno.ENOENT, "No such file or directory", str(video)))
    assert failure.error == "No such file or directory"


def test_what_ffprobe_says_of_a_header_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An ffprobe that lacks an option, and every file called damaged."""
    failing = _script(tmp_path / "ffprobe", "echo no such option >&2; exit 1")
    caplog.set_level(logging.INFO)
    with pytest.raises(MediaError, match="its header cannot be read"):
        describe(tmp_path / "shot.mkv", "matroska", [], tools.Tools(failing, failing), 10)
    assert "shot.mkv: ffprobe failed (1): no such option" in caplog.text


@pytest.mark.parametrize("status", [126, 127])
def test_a_program_that_lacks_a_library_says_nothing_about_a_file(
    tmp_path: Path, status: int
) -> None:
    """Good videos that are given up on while the system's packages are upgraded."""
    broken = _script(tmp_path / "ffprobe", f"echo libblas.so.3: not there >&2; exit {status}")
    reason = rf"ffprobe does not start \({status}\): libblas.* must lie below /usr"
    with pytest.raises(ToolUnusable, match=reason) as e:
        run([str(broken)], 10)
    assert not isinstance(e.value, MediaError)


@pytest.mark.slow
def test_a_process_over_its_time_is_killed_even_if_it_ignores_that(tmp_path: Path) -> None:
    """An encoder that goes on for ever after its run was given up."""
    stubborn = _script(tmp_path / "ffmpeg", "trap '' TERM; while :; do sleep 0.1; done")
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"took longer than 0\.3 s") as e:
        run([str(stubborn)], 0.3)
    assert e.value.over_limit
    assert time.monotonic() - started < 5
    left = [
        one
        for one in psutil.process_iter(["cmdline"])
        if str(stubborn) in (one.info["cmdline"] or [])
    ]
    assert not left


def test_a_probe_is_limited_in_memory_and_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of kilobytes for which ffprobe takes all memory, or its reader does."""
    limits = _script(tmp_path / "ffprobe", "sleep 0.2; ulimit -v; ulimit -c")
    assert run([str(limits)], 10).split() == [b"2097152", b"0"]
    monkeypatch.setattr("lens_pipeline.media.ffmpeg.run._OUTPUT_BYTES", 1 << 20)
    endless = _script(tmp_path / "ffprobe", "exec yes")
    with pytest.raises(MediaError, match="says more than") as e:
        run([str(endless)], 10)
    assert e.value.over_limit


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_probe_that_was_killed_says_nothing_about_its_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    """A good shot given up on, since the kernel was out of memory."""
    killed = _script(tmp_path / "ffprobe", f"kill -{number.value} $$")
    with pytest.raises(MediaProcessDied, match="ended from outside"):
        run([str(killed)], 10)
