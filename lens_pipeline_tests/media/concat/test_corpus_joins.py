"""Joins of the odd files in `corpus/`: what is shown of each."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lens_pipeline.media.concat.join import Master, join
from lens_pipeline.media.concat.plan import Compatibility
from lens_pipeline_tests.media.concat.shots import (
    TOOLS,
    check_master,
    described,
    ffmpeg,
    source,
    work_in,
)

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
    ("names", "frames"),
    [
        ("rotated-90 rotated-90-green", 48),
        ("cover-art plain-blue-24", 48),
        ("zero-matrix plain-blue-24", 48),
        ("plain-blue-24 full-range plain-blue-24", 72),
        ("h264-444 h264-444", 48),
        ("hevc-idr-drops-prior hevc-idr-drops-prior hevc-idr-drops-prior", 72),
        ("hevc-b-frames hevc-tag-hev1", 48),
    ],
)
@pytest.mark.parametrize("compatibility", ["web", "source"])
def test_every_frame_is_shown_in_its_time(
    tmp_path: Path, names: str, frames: int, compatibility: Compatibility
) -> None:
    master = _join(tmp_path, names, compatibility)
    flashes = [number + 0.5 for number in range(frames // _RATE)]
    assert _flashes(master) == pytest.approx(flashes, abs=0.02)
    assert master.frames == frames
    times = tmp_path / "times.txt"
    passthrough = ("-fps_mode", "passthrough", "-enc_time_base", f"1:{_RATE}", "-f", "framecrc")
    ffmpeg("-i", str(master.path), "-an", *passthrough, str(times))
    lines = [line.split(",") for line in times.read_text().splitlines() if line[0] != "#"]
    assert [int(line[2]) for line in lines] == list(range(frames))
    if compatibility == "web":
        tracks = described(master.path)["streams"]
        assert [track["codec_name"] for track in tracks] == ["h264", "aac"]
        assert tracks[0]["pix_fmt"] == "yuv420p"
        assert (tracks[0]["profile"], tracks[0]["level"] <= 51) == ("High", True)


def test_frames_that_a_copy_would_drop_are_not_copied(tmp_path: Path) -> None:
    master = _join(tmp_path, " ".join(["hevc-idr-drops-prior"] * 3), "source")
    assert master.method == "encode"
    assert master.fallback == (
        "shot hevc-idr-drops-prior cannot be copied: at its frame 0, players drop frames before"
    )
    assert _join(tmp_path, "hevc-idr-drops-prior", "source").method == "copy"


def test_both_tags_of_hevc_are_one_signature(tmp_path: Path) -> None:
    """10 bits and half of the bytes lost to a flag."""
    for names in ("hevc-b-frames hevc-tag-hev1", "hevc-tag-hev1 hevc-b-frames"):
        master = _join(tmp_path, names, "source")
        assert (master.method, master.fallback) == ("copy", None)
        assert described(master.path)["streams"][0]["codec_tag_string"] == "hvc1"


def test_turned_shots_are_shown_upright(tmp_path: Path) -> None:
    for compatibility in ("web", "source"):
        master = _join(tmp_path, "rotated-90 rotated-90-green", compatibility)
        assert (master.method, master.width, master.height) == ("copy", 90, 160)


def test_full_range_is_as_bright_beside_others(tmp_path: Path) -> None:
    master = _join(tmp_path, "plain-blue-24 full-range plain-blue-24", "web")
    assert master.method == "partial"
    picture = tmp_path / "frame.rgb"
    second = ("-ss", "1.125", "-i", str(master.path), "-frames:v", "1")
    ffmpeg(*second, "-f", "rawvideo", "-pix_fmt", "rgb24", str(picture))
    colour = np.frombuffer(picture.read_bytes(), np.uint8).reshape(-1, 3).mean(axis=0)
    assert colour == pytest.approx([192, 64, 32], abs=4)
