"""Joins of the odd files in `corpus/`: what is shown of each."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lens_pipeline.media.concat.join import Master, join
from lens_pipeline.media.concat.plan import Compatibility, Method
from lens_pipeline_tests.media.concat.shots import (
    TOOLS,
    check_master,
    described,
    ffmpeg,
    source,
    work_in,
)

pytestmark = pytest.mark.slow

_CORPUS = Path(__file__).parents[1] / "corpus"
_RATE = 24


def _join(tmp_path: Path, names: str, compatibility: Compatibility) -> Master:
    sources = [source(_CORPUS / f"{name}.mp4") for name in names.split()]
    work = work_in(tmp_path / "work")
    return join(sources, TOOLS, work, compatibility=compatibility)


def _flashes(master: Master) -> list[float]:
    """Seconds of the white frames."""
    shown = check_master(master, Fraction(_RATE))
    light = np.array([frame.mean() for frame in shown]) > 200
    return [n / _RATE for n in np.flatnonzero(light & ~np.roll(light, 1))]


@pytest.mark.parametrize(
    ("names", "compatibility", "method"),
    [
        ("rotated-90 rotated-90-green", "web", "copy"),
        ("cover-art plain-blue-24", "web", "copy"),
        ("zero-matrix plain-blue-24", "web", "copy"),
        ("plain-blue-24 full-range plain-blue-24", "web", "partial"),
        ("h264-444 h264-444", "web", "encode"),
        ("h264-444 h264-444", "source", "copy"),
        ("hevc-b-frames hevc-tag-hev1", "source", "copy"),
        ("hevc-tag-hev1 hevc-b-frames", "source", "copy"),
        ("hevc-idr-drops-prior hevc-idr-drops-prior hevc-idr-drops-prior", "web", "encode"),
        ("hevc-idr-drops-prior hevc-idr-drops-prior hevc-idr-drops-prior", "source", "encode"),
    ],
)
def test_every_frame_is_shown_in_its_time(
    tmp_path: Path, names: str, compatibility: Compatibility, method: Method
) -> None:
    master = _join(tmp_path, names, compatibility)
    assert master.method == method
    shots = len(names.split())
    assert master.frames == shots * _RATE
    assert _flashes(master) == pytest.approx([n + 0.5 for n in range(shots)], abs=0.02)
    assert _times(master, tmp_path) == list(range(master.frames))
    video, sound = described(master.path)["streams"]
    if compatibility == "web":
        assert (video["codec_name"], sound["codec_name"]) == ("h264", "aac")
        assert (video["profile"], video["pix_fmt"]) == ("High", "yuv420p")
    elif method == "copy" and "hevc" in names:
        assert video["codec_tag_string"] == "hvc1"
    if "rotated" in names:
        assert (master.width, master.height) == (90, 160)
    if "full-range" in names:
        assert _colour(master, 1.125) == pytest.approx([192, 64, 32], abs=4)


def _times(master: Master, directory: Path) -> list[int]:
    """Of all frames that a player shows, in frames."""
    times = directory / "times.txt"
    passthrough = ("-fps_mode", "passthrough", "-enc_time_base", f"1:{_RATE}", "-f", "framecrc")
    ffmpeg("-i", str(master.path), "-an", *passthrough, str(times))
    lines = [line.split(",") for line in times.read_text().splitlines() if line[0] != "#"]
    return [int(line[2]) for line in lines]


def _colour(master: Master, seconds: float) -> list[float]:
    """Mean red, green and blue."""
    with av.open(str(master.path)) as container:
        frame = next(f for f in container.decode(video=0) if (f.time or 0) >= seconds)
        return [float(value) for value in frame.to_ndarray(format="rgb24").mean(axis=(0, 1))]


def test_why_frames_are_not_copied_is_said(tmp_path: Path) -> None:
    shot = "hevc-idr-drops-prior"
    master = _join(tmp_path, f"{shot} {shot}", "source")
    reason = (
        "one shot cannot be copied (at its key frame 0, players drop frames before), "
        "and shots are not encoded to hevc"
    )
    assert [each.reason for each in master.shots] == [reason, reason]
    assert master.fallback is None
    # Nothing comes before the first.
    assert _join(tmp_path, shot, "source").method == "copy"
