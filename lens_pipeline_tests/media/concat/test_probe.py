"""What is read of a shot before it is joined."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from lens_pipeline.media.concat.probe import Shot, probe
from lens_pipeline.media.errors import Cancelled, MediaError
from lens_pipeline_tests.media.concat.shots import (
    FRAMES,
    H264,
    HEVC,
    RATE,
    TOOLS,
    VP9,
    Make,
    Recipe,
    ffmpeg,
    work_in,
)

NTSC = Recipe("ntsc", rate="30000/1001", seconds=1, tone_seconds=1, coding=(*H264, "-g", "12"))
FILM = replace(NTSC, name="film", rate="24000/1001")


def probed(path: Path) -> Shot:
    return probe(path, TOOLS, work_in(path.parent / "work"))


def test_a_shot_is_described_exactly(make: Make) -> None:
    shot = probed(make(NTSC))
    signature = shot.signature
    assert (signature.codec, signature.width, signature.height) == ("h264", 192, 108)
    assert signature.frame_rate == Fraction(30000, 1001)
    assert shot.length == 30 * Fraction(1001, 30000)
    assert (shot.frames, shot.start, shot.variable_rate, shot.edited) == (30, 0, False, False)
    assert sorted(shot.display_order) == list(range(30)) != list(shot.display_order)
    assert shot.starts_clean and not shot.is_hdr and not shot.frame_hashes
    assert shot.last_key == 24
    assert shot.audio is not None
    assert (shot.audio.codec, shot.audio.sample_rate, shot.audio.channels) == ("aac", 48_000, 2)


def test_a_shot_survives_json(make: Make) -> None:
    with_sound = probed(make(FILM))
    silent = probed(make(Recipe("silent", tone=0, coding=VP9, container="webm")))
    for shot in (with_sound, silent):
        assert Shot.from_json(shot.to_json()) == shot


def test_milliseconds_do_not_make_a_rate_vary(make: Make, tmp_path: Path) -> None:
    mkv = tmp_path / "shot.mkv"
    ffmpeg("-i", str(make(FILM)), "-c", "copy", str(mkv))
    shot = probed(mkv)
    assert shot.time_base == Fraction(1, 1000)
    assert (shot.signature.frame_rate, shot.variable_rate) == (Fraction(24000, 1001), False)


@pytest.mark.parametrize("stated", [1, 15, 60])
def test_a_false_rate_in_matroska_is_not_believed(plain: Path, tmp_path: Path, stated: int) -> None:
    mkv = tmp_path / "false.mkv"
    ffmpeg("-i", str(plain), "-c", "copy", str(mkv))
    data = bytearray(mkv.read_bytes())
    # DefaultDuration, of four bytes.
    at = data.index(b"\x23\xe3\x83\x84") + 4
    data[at : at + 4] = (10**9 // stated).to_bytes(4, "big")
    mkv.write_bytes(data)
    shot = probed(mkv)
    assert (shot.signature.frame_rate, shot.variable_rate) == (RATE, False)
    assert (shot.frames, shot.length) == (FRAMES, FRAMES / RATE)


def test_times_before_0_in_matroska_are_named(plain: Path, tmp_path: Path) -> None:
    """A whole file that is called damaged."""
    mkv = tmp_path / "early.mkv"
    shifted = ("-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.4")
    ffmpeg("-i", str(plain), "-c", "copy", *shifted, str(mkv))
    with pytest.raises(MediaError, match="begins before the time 0"):
        probed(mkv)


def test_a_last_frame_that_is_held_makes_the_rate_vary(make: Make, tmp_path: Path) -> None:
    shot = make(Recipe(rate="24", seconds=1, coding=(*H264, "-bf", "0"), tone=0))
    held = tmp_path / "held.mp4"
    ffmpeg(
        *("-i", str(shot), "-c", "copy"),
        *("-bsf:v", "setts=duration=if(eq(N\\,23)\\,DURATION*10\\,DURATION)", str(held)),
    )
    described = probed(held)
    assert described.variable_rate
    assert described.length == Fraction(33, 24)


def test_a_large_configuration_is_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of it, of any track, that are written out as text."""
    shot = tmp_path / "shot.mkv"
    tracks = ("-map", "0:a", "-map", "0:v", "-c", "copy")
    ffmpeg("-i", str(make(Recipe("hevc", coding=HEVC))), *tracks, str(shot))
    assert probed(shot).stream == 1
    monkeypatch.setattr("lens_pipeline.media.concat.probe.MOST_DESCRIPTION_BYTES", 99)
    with pytest.raises(MediaError, match="configuration is too large") as e:
        probed(shot)
    assert e.value.over_limit


def test_probing_can_be_cancelled(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        probe(plain, TOOLS, work_in(tmp_path / "work", lambda: True))
