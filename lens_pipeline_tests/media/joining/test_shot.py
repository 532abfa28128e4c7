"""What is read of a shot before it is joined, and what is refused."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from lens_pipeline.media.errors import Cancelled, MediaError
from lens_pipeline.media.ffmpeg import Work
from lens_pipeline.media.joining.shot import Shot, probe
from lens_pipeline_tests.media.joining.shots import TOOLS, ffmpeg, make_shot, work_in
from lens_pipeline_tests.media.samples import quadrants, save, write_audio_only


def probed(path: Path) -> Shot:
    return probe(path, TOOLS, work_in(path.parent / "work"))


def test_a_shot_is_described_exactly(tmp_path: Path) -> None:
    shot = probed(make_shot(tmp_path / "shot.mp4", rate="30000/1001"))
    signature = shot.signature
    assert (signature.codec, signature.width, signature.height) == ("h264", 320, 180)
    assert signature.frame_rate == Fraction(30000, 1001)
    assert shot.length == 30 * Fraction(1001, 30000)
    assert (shot.frames, shot.start, shot.variable_rate, shot.edited) == (30, 0, False, False)
    assert sorted(shot.display_order) == list(range(30)) != list(shot.display_order)
    assert shot.starts_clean and not shot.is_hdr and not shot.undamaged
    assert shot.last_key == 24
    assert shot.audio is not None
    assert (shot.audio.codec, shot.audio.sample_rate, shot.audio.channels) == ("aac", 48_000, 2)


def test_a_shot_survives_json(tmp_path: Path) -> None:
    with_sound = probed(make_shot(tmp_path / "sound.mp4", rate="24000/1001"))
    silent = probed(make_shot(tmp_path / "silent.webm", sound=None, coding=("-c:v", "libvpx-vp9")))
    for shot in (with_sound, silent):
        assert Shot.from_json(shot.to_json()) == shot


def test_milliseconds_do_not_make_a_rate_vary(tmp_path: Path) -> None:
    mp4 = make_shot(tmp_path / "shot.mp4", rate="24000/1001")
    mkv = tmp_path / "shot.mkv"
    ffmpeg("-i", str(mp4), "-c", "copy", str(mkv))
    shot = probed(mkv)
    assert shot.time_base == Fraction(1, 1000)
    assert (shot.signature.frame_rate, shot.variable_rate) == (Fraction(24000, 1001), False)


def test_a_last_frame_that_is_held_makes_the_rate_vary(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4", coding=("-c:v", "libx264", "-bf", "0"), sound=None)
    held = tmp_path / "held.mp4"
    ffmpeg(
        *("-i", str(shot), "-c", "copy"),
        *("-bsf:v", "setts=duration=if(eq(N\\,23)\\,DURATION*10\\,DURATION)", str(held)),
    )
    described = probed(held)
    assert described.variable_rate
    assert described.length == Fraction(33, 24)


def text(path: Path) -> Path:
    path.write_text("#EXTM3U\nfile:///etc/passwd\n")
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def picture(path: Path) -> Path:
    return save(quadrants(), path, "AVIF")


def without_index(path: Path) -> Path:
    data = make_shot(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def cut_off(path: Path) -> Path:
    ffmpeg("-i", str(make_shot(path)), "-c", "copy", "-movflags", "faststart", f"{path}.mp4")
    data = Path(f"{path}.mp4").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def unsupported(path: Path) -> Path:
    return make_shot(path, coding=("-c:v", "mpeg2video"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (empty, "empty file"),
        (text, "playlist"),
        (picture, "not a video but a picture: AVIF"),
        (write_audio_only, "no video track, only audio"),
        (without_index, "no index"),
        (cut_off, "truncated"),
        (unsupported, "coded with mpeg2video, which is not supported"),
    ],
)
def test_what_is_no_whole_video_is_refused_in_words(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    with pytest.raises(MediaError, match=reason):
        probed(make(tmp_path / "shot.mp4"))


def test_probing_can_be_cancelled(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4")
    with pytest.raises(Cancelled):
        probe(shot, TOOLS, Work(tmp_path, lambda: True, lambda *_: None))
