"""Masters of shots that differ from one another in one property each."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from lens_pipeline.media.concat.join import Master, examine, join
from lens_pipeline.media.errors import ShotError
from lens_pipeline_tests.media.concat.shots import (
    AV1,
    FRAMES,
    FULL_RANGE,
    H264,
    HEVC,
    MPEG4,
    OPUS,
    RATE,
    TOOLS,
    VP9,
    Join,
    Make,
    Recipe,
    actions,
    assert_same,
    check_master,
    described,
    ffmpeg,
    frames,
    loudness,
    pitch,
    sound,
    source,
    work_in,
)
from lens_pipeline_tests.media.concat.test_join import Folder
from lens_pipeline_tests.media.samples import Pixels

pytestmark = pytest.mark.slow

_SAMPLES = 48_000 * FRAMES // 25
_INTERLACED = (*H264, "-flags", "+ilme+ildct", "-x264-params", "tff=1")


def _assert_similar(shown: list[Pixels], wanted: list[Pixels]) -> None:
    """As one that was encoded once more, and more like its own frame than like those beside it."""
    assert len(shown) == len(wanted)
    for n, picture in enumerate(shown):
        first = max(0, n - 1)
        beside = [_difference(picture, other) for other in wanted[first : n + 2]]
        assert beside[n - first] == min(beside) < 5


def _difference(one: Pixels, other: Pixels) -> float:
    """Of the values, 0 to 255, on average."""
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def _hdr(transfer: str, tagged: bool) -> tuple[str, ...]:
    primaries, matrix = ("bt2020", "bt2020nc") if tagged else ("unknown", "unknown")
    tags = f"colorprim={primaries}:transfer={transfer}:colormatrix={matrix}"
    return (*HEVC[:4], "-pix_fmt", "yuv420p10le", "-x265-params", f"log-level=none:{tags}")


_CONFIGURED = "its codec configuration differs"
# What is odd, and why it is encoded beside two plain shots.
_ODD = [
    (Recipe("hevc", coding=HEVC), "its codec is hevc, not h264"),
    (
        Recipe("vp9", coding=VP9, container="webm", sound_coding=OPUS),
        "its codec is vp9, not h264",
    ),
    (Recipe("av1", coding=AV1), "its codec is av1, not h264"),
    (Recipe("mpeg4", coding=(*MPEG4, "-q:v", "2")), "mpeg4 is not played in an MP4"),
    (Recipe("no-b-frames", coding=(*H264, "-bf", "0")), "its reordering of frames is 0, not 2"),
    (Recipe("more-references", coding=(*H264, "-x264-params", "ref=4")), _CONFIGURED),
    (Recipe("no-cabac", coding=(*H264, "-x264-params", "cabac=0")), _CONFIGURED),
    (Recipe("no-weights", coding=(*H264, "-x264-params", "weightp=0")), _CONFIGURED),
    (Recipe("interlaced", coding=_INTERLACED), "its field order is tt, not progressive"),
    (Recipe("full", coding=FULL_RANGE), "its pixel format is yuvj420p, not yuv420p"),
]


@pytest.mark.parametrize(("odd", "reason"), _ODD, ids=[recipe.name for recipe, _ in _ODD])
def test_an_odd_shot_is_encoded_and_the_others_stay_as_they_are(
    plain: Path, make: Make, joined: Join, odd: Recipe, reason: str
) -> None:
    master, shown = joined(plain, make(odd), plain)
    assert (master.method, actions(master)) == ("partial", ["copy", "encode", "copy"])
    assert [shot.reason for shot in master.shots][::2] == ["matches", "matches"]
    assert re.search(reason, master.shots[1].reason)
    wanted = frames(plain)
    assert_same(shown[:FRAMES], wanted)
    assert_same(shown[-FRAMES:], wanted)
    _assert_similar(shown[FRAMES:-FRAMES], wanted)


def _combs(picture: Pixels) -> float:
    """How far each second row differs from the mean of those beside it."""
    rows = picture.astype(float)
    return float(np.abs(rows[1:-1:2] - (rows[:-2:2] + rows[2::2]) / 2).mean())


def test_an_interlaced_shot_is_encoded_without_combs(plain: Path, make: Make, joined: Join) -> None:
    """Also at another rate: a filter that compares fields must see each frame once."""
    woven = "tinterlace=interleave_top,fieldorder=tff"
    shot = make(Recipe("woven", rate="60", pattern="testsrc2", filters=woven, coding=_INTERLACED))
    master, shown = joined(plain, shot, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    # Where nothing moves there is no comb.
    combed = np.median([_combs(picture) for picture in frames(shot)])
    clean = np.median([_combs(picture) for picture in frames(plain)])
    smooth = np.median([_combs(picture) for picture in shown[FRAMES:-FRAMES]])
    assert smooth < clean < combed / 1.2


def _series(path: Path, *shots: Path) -> Path:
    """Shots of other sizes or formats in one track."""
    stream = path.with_suffix(".h264")
    stream.write_bytes(b"".join(shot.read_bytes() for shot in shots))
    ffmpeg("-r", "25", "-i", str(stream), "-c", "copy", "-bsf:v", "setts=ts=N/25/TB", str(path))
    return path


_ONE_COLOUR = Recipe(
    "red",
    pattern="color=c=red",
    coding=(*H264, "-bf", "0", "-bsf:v", "dump_extra=freq=keyframe"),
    tone=0,
    container="h264",
)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"size": "96x96"}, "its picture changes its size or format"),
        ({"coding": (*_ONE_COLOUR.coding, "-pix_fmt", "yuv444p")}, "its picture changes"),
        ({"coding": (*_ONE_COLOUR.coding, "-pix_fmt", "yuvj420p", "-color_range", "pc")}, "its"),
    ],
    ids=["size", "pixel format", "range"],
)
def test_a_picture_that_changes_stays_in_the_place_of_the_first(
    plain: Path, make: Make, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    """A master that dies of what a browser's recorder does when its window is resized."""
    white = replace(_ONE_COLOUR, name="white", pattern="color=c=white", **changed)
    odd = _series(tmp_path / "odd.mkv", make(_ONE_COLOUR), make(white))
    work, pieces = work_in(tmp_path / "work"), Folder(tmp_path / "pieces")
    sources = [source(path) for path in (plain, odd, plain)]
    for one in sources:
        examine(one, TOOLS, work, pieces)
    master = join(sources, TOOLS, work, pieces)
    assert master.fallback is None
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason.startswith(reason)
    shown = check_master(master)[FRAMES : 3 * FRAMES]
    # Red, then white; as high as before, between black if it is square.
    assert {round(float(picture[50, 96]) / 10) for picture in shown[:FRAMES]} == {8}
    for picture in shown[FRAMES:]:
        assert picture[2:-2, 96].min() > 250
        assert (picture[50, 30] < 4) == ("size" in changed)


def test_a_turned_picture_that_changes_its_size_is_refused_when_it_is_added(
    make: Make, tmp_path: Path
) -> None:
    white = replace(_ONE_COLOUR, name="white-square", size="96x96", pattern="color=c=white")
    odd = _series(tmp_path / "odd.mp4", make(_ONE_COLOUR), make(white))
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(odd), "-c", "copy", str(turned))
    with pytest.raises(ShotError, match="changes its size, and is turned"):
        examine(source(turned), TOOLS, work_in(tmp_path / "work"), Folder(tmp_path / "pieces"))


def test_portrait_beside_landscape_is_between_black_bars(
    plain: Path, make: Make, joined: Join
) -> None:
    portrait = make(Recipe("portrait", size="108x192"))
    master, shown = joined(plain, portrait, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "its width is 108, not 192"
    assert (master.width, master.height) == (192, 108)
    # 108 / 192 of the height, in even numbers: 60.
    left, right = 66, 126
    assert len(shown) == 3 * FRAMES
    for picture, original in zip(shown[FRAMES : 2 * FRAMES], frames(portrait), strict=True):
        assert picture[:, : left - 2].max() < 24 and picture[:, right + 2 :].max() < 24
        wanted = Image.fromarray(original).resize((right - left, 108), Image.Resampling.LANCZOS)
        assert _difference(picture[:, left:right], np.asarray(wanted)) < 8


def test_landscape_beside_portrait_is_between_black_bars(
    plain: Path, make: Make, joined: Join
) -> None:
    portrait = make(Recipe("portrait", size="108x192"))
    master, shown = joined(portrait, plain, portrait)
    assert actions(master) == ["copy", "encode", "copy"]
    assert (master.width, master.height) == (108, 192)
    for picture in shown[FRAMES : 2 * FRAMES]:
        # As high as the other one was wide: 60.
        assert picture[:64].max() < 24 and picture[128:].max() < 24
        assert picture[66:126].std() > 30


def test_mixed_rates_show_every_moment_at_the_rate_of_most(
    plain: Path, make: Make, joined: Join
) -> None:
    """Motion that plays too fast or too slow, or a shot that ends early."""
    rates = ["24000/1001", "30", "60"]
    odd = [make(Recipe(f"rate-{float(Fraction(rate)):.0f}", rate=rate)) for rate in rates]
    master, shown = joined(plain, odd[0], plain, odd[1], plain, odd[2])
    assert actions(master) == ["copy", "encode"] * 3
    first = FRAMES
    for path, rate, report in zip(odd, rates, master.shots[1::2], strict=True):
        assert report.reason == f"its frame rate is {Fraction(rate)}, not 25"
        originals = frames(path)
        count = round(len(originals) / Fraction(rate) * 25)
        assert report.seconds == pytest.approx(count / 25)
        for n, picture in enumerate(shown[first : first + count]):
            moment = round(n / RATE * Fraction(rate))
            differences = [_difference(picture, other) for other in originals]
            assert abs(int(np.argmin(differences)) - moment) <= 1
            assert min(differences) < 5
        first += count + FRAMES
    assert first - FRAMES == master.frames


def _varied(path: Path, plain: Path) -> Path:
    """The eleventh frame stays for a fifth of a second more."""
    pause = "setpts=PTS+if(gt(N\\,10)\\,0.2/TB\\,0)"
    ffmpeg("-i", str(plain), "-an", "-vf", pause, "-fps_mode", "vfr", *H264, str(path))
    return path


def test_a_variable_rate_becomes_the_rate_of_the_others(
    plain: Path, joined: Join, tmp_path: Path
) -> None:
    varied = _varied(tmp_path / "varied.mp4", plain)
    master, shown = joined(plain, varied, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "its frame rate varies"
    assert master.frames == 3 * FRAMES + 5
    originals = frames(plain)
    wanted = originals[:11] + [originals[10]] * 5 + originals[11:]
    _assert_similar(shown[FRAMES:-FRAMES], wanted)


def test_a_variable_rate_alone_becomes_a_standard_one(
    plain: Path, joined: Join, tmp_path: Path
) -> None:
    varied = _varied(tmp_path / "varied.mp4", plain)
    # 20 frames in a second are nearest to this.
    master, shown = joined(varied, rate=Fraction(24000, 1001))
    assert (master.method, len(shown)) == ("encode", 24)


@pytest.mark.parametrize("tagged", [True, False], ids=["tagged", "transfer only"])
@pytest.mark.parametrize(
    ("transfer", "white"),
    # 203 nits, white in HDR: 0.58 in PQ and 0.75 in HLG, of 10 bits.
    [("smpte2084", 572), ("arib-std-b67", 721)],
    ids=["PQ", "HLG"],
)
def test_hdr_is_brought_to_the_brightness_of_the_others(
    plain: Path, make: Make, joined: Join, transfer: str, white: int, tagged: bool
) -> None:
    """Grey and dull pictures: HDR shown as if it were standard video."""
    picture = f"format=yuv420p10le,lutyuv=y={white}:u=512:v=512"
    coding = _hdr(transfer, tagged)
    hdr = make(Recipe("hdr", pattern="color=gray", filters=picture, coding=coding))
    master, shown = joined(plain, hdr, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "its codec is hevc, not h264"
    assert len(shown) == 3 * FRAMES
    for picture in shown[FRAMES : 2 * FRAMES]:
        # As in renditions and, nearly, in posters: room is left above it for highlights.
        assert picture.mean() == pytest.approx(214, abs=3)
        assert picture.std() < 3


def test_grey_stays_grey_in_another_matrix(plain: Path, make: Make, joined: Join) -> None:
    """A purple tint in every shot that is HD among others that are not."""
    grey = "format=yuv420p,lutyuv=y=125:u=128:v=128,setparams=colorspace=bt709"
    coding = (*H264, "-colorspace", "bt709")
    shot = make(Recipe("grey", pattern="color=gray", filters=grey, coding=coding))
    master, _ = joined(plain, shot, plain)
    assert master.shots[1].reason == "its colour matrix is bt709, not unknown"
    with av.open(str(master.path)) as container:
        shown = list(container.decode(video=0))[FRAMES : 2 * FRAMES]
    for frame in shown:
        values = frame.to_ndarray(format="yuv420p")
        assert set(np.unique(values[:108])) == {125}
        assert set(np.unique(values[108:])) == {128}


def test_a_turned_shot_is_upright(plain: Path, make: Make, joined: Join, tmp_path: Path) -> None:
    sideways = make(Recipe("sideways", size="108x192"))
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(sideways), "-c", "copy", str(turned))
    master, shown = joined(plain, turned, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "its width is 108, not 192"
    upright = [np.rot90(picture) for picture in frames(sideways)]
    _assert_similar(shown[FRAMES:-FRAMES], upright)


def test_a_shot_turned_upside_down_is_not_copied(plain: Path, joined: Join, tmp_path: Path) -> None:
    """Everything but the matrix is equal."""
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "180", "-i", str(plain), "-c", "copy", str(turned))
    master, shown = joined(plain, turned, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert re.fullmatch(r"its rotation is -?180, not 0", master.shots[1].reason)
    _assert_similar(shown[FRAMES:-FRAMES], [picture[::-1, ::-1] for picture in frames(plain)])


def test_pixels_that_are_not_square_are_shown_in_their_shape(
    plain: Path, make: Make, joined: Join
) -> None:
    narrow = make(Recipe("anamorphic", size="96x108", filters="setsar=2"))
    master, shown = joined(plain, narrow, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "its width is 96, not 192"
    wanted = [
        np.asarray(Image.fromarray(picture).resize((192, 108), Image.Resampling.LANCZOS))
        for picture in frames(narrow)
    ]
    for picture, original in zip(shown[FRAMES:-FRAMES], wanted, strict=True):
        assert _difference(picture, original) < 8


def test_beside_a_majority_of_full_range_all_are_encoded(
    plain: Path, make: Make, joined: Join
) -> None:
    full = make(Recipe("full", coding=FULL_RANGE))
    master, shown = joined(full, plain, full)
    assert (master.method, actions(master)) == ("encode", ["encode"] * 3)
    wanted = (
        "one shot cannot be copied (its pixel format is yuv420p, not yuvj420p), "
        "and shots are not encoded to yuvj420p"
    )
    assert {shot.reason for shot in master.shots} == {wanted}
    assert described(master.path)["streams"][0]["pix_fmt"] == "yuv420p"
    _assert_similar(shown, frames(plain) * 3)


@pytest.mark.slow
@pytest.mark.parametrize("coding", [HEVC, VP9, AV1, MPEG4])
def test_beside_a_majority_of_another_codec_all_are_encoded(
    plain: Path, make: Make, joined: Join, coding: tuple[str, ...]
) -> None:
    other = make(Recipe("other", coding=coding))
    master, shown = joined(other, plain, other)
    assert (master.method, actions(master)) == ("encode", ["encode"] * 3)
    _assert_similar(shown[FRAMES:-FRAMES], frames(plain))


def test_odd_sizes_are_copied_alone_and_made_even_beside_others(
    plain: Path, make: Make, joined: Join
) -> None:
    coding = (*H264[:4], "-pix_fmt", "yuv444p")
    filters = "scale=193:109,setsar=1,format=yuv444p"
    odd = make(Recipe("odd-size", filters=filters, coding=coding))
    master, shown = joined(odd, odd)
    assert (master.method, master.width, master.height) == ("copy", 193, 109)
    assert_same(shown, frames(odd) * 2)
    master, shown = joined(odd, plain, odd)
    assert (master.method, master.width, master.height) == ("encode", 192, 108)
    reason = (
        "one shot cannot be copied (its width is 192, not 193), "
        "and shots are not encoded to yuv444p"
    )
    assert {shot.reason for shot in master.shots} == {reason}
    _assert_similar(shown[FRAMES:-FRAMES], frames(plain))


def test_time_bases_do_not_matter(plain: Path, joined: Join, tmp_path: Path) -> None:
    """Shots that play seven times too fast, or stand still."""
    fine, milliseconds = tmp_path / "fine.mp4", tmp_path / "coarse.mkv"
    ffmpeg("-i", str(plain), "-c", "copy", "-video_track_timescale", "90000", str(fine))
    ffmpeg("-i", str(plain), "-c", "copy", str(milliseconds))
    bases = [described(path)["streams"][0]["time_base"] for path in (plain, fine, milliseconds)]
    assert bases == ["1/12800", "1/90000", "1/1000"]
    master, shown = joined(plain, fine, milliseconds)
    assert actions(master)[:2] == ["copy", "copy"]
    _assert_similar(shown, frames(plain) * 3)


def test_what_an_edit_list_hides_stays_hidden(plain: Path, joined: Join, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", "0.32", "-i", str(plain), "-c", "copy", str(cut))
    visible = frames(cut)
    assert len(visible) == 12
    master, shown = joined(plain, cut, plain)
    assert actions(master) == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "some of its frames are not shown"
    _assert_similar(shown[FRAMES:-FRAMES], visible)


def test_a_first_frame_that_is_late_on_the_clock_comes_at_once(
    plain: Path, joined: Join, tmp_path: Path
) -> None:
    """Without an edit list, reordering starts the clock of a file two frames late."""
    late = tmp_path / "late.mp4"
    ffmpeg("-i", str(plain), "-c", "copy", "-use_editlist", "0", str(late))
    assert float(described(late)["streams"][0]["start_time"]) == pytest.approx(0.08)
    master, shown = joined(plain, late, plain)
    assert (master.method, master.frames) == ("copy", 3 * FRAMES)
    assert_same(shown, frames(plain) * 3)
    for first in (0, _SAMPLES, 2 * _SAMPLES):
        part = sound(master.path)[0, first + 4800 : first + _SAMPLES - 4800]
        assert loudness(part) > 0.05


def test_all_shots_with_a_configuration_of_their_own(make: Make, joined: Join) -> None:
    shots = [
        make(Recipe(f"own-{refs}", coding=(*H264, "-x264-params", f"ref={refs}")))
        for refs in (1, 2, 3, 4)
    ]
    master, shown = joined(*shots)
    # The first is as frequent as the others.
    assert actions(master) == ["copy", "encode", "encode", "encode"]
    assert {shot.reason for shot in master.shots[1:]} == {_CONFIGURED}
    assert_same(shown[:FRAMES], frames(shots[0]))
    _assert_similar(shown[FRAMES:], frames(shots[0]) * 3)


def test_shots_come_in_the_order_given(plain: Path, make: Make, joined: Join) -> None:
    """Copied and encoded ones, each with a picture of its own."""
    shots = [
        plain,
        make(Recipe("flipped-odd", filters="hflip", coding=(*H264, "-bf", "0"))),
        make(Recipe("negated", filters="negate")),
        make(Recipe("negated-odd", filters="negate,vflip", coding=(*H264, "-bf", "0"))),
        make(Recipe("upside-down", filters="vflip")),
    ]
    master, shown = joined(*shots)
    assert actions(master) == ["copy", "encode", "copy", "encode", "copy"]
    assert [shot.name for shot in master.shots] == [path.stem for path in shots]
    wanted = [picture for path in shots for picture in frames(path)]
    _assert_similar(shown, wanted)
    for first in (0, 2 * FRAMES, 4 * FRAMES):
        assert_same(shown[first : first + FRAMES], wanted[first : first + FRAMES])


@pytest.mark.slow
def test_two_hundred_shots(make: Make, joined: Join) -> None:
    """Too many open files, or too long a command."""
    tiny = make(Recipe("tiny", size="64x64", seconds=0.2, tone_seconds=0.2))
    odd = make(Recipe("tiny-odd", size="64x64", seconds=0.2, tone_seconds=0.2, rate="50"))
    count = len(frames(tiny))
    master, shown = joined(*([tiny] * 99 + [odd]) * 2)
    assert actions(master) == (["copy"] * 99 + ["encode"]) * 2
    assert len(shown) == 200 * count
    assert_same(shown[: 99 * count], frames(tiny) * 99)


def _tones(master: Master, shots: int) -> list[float]:
    """Hertz heard in each shot, away from its ends."""
    left = sound(master.path)[0]
    starts = [number * _SAMPLES for number in range(shots)]
    return [pitch(left[start + 4800 : start + _SAMPLES - 4800]) for start in starts]


def test_a_shot_without_sound_is_silent(plain: Path, make: Make, joined: Join) -> None:
    silent = make(Recipe("silent", tone=0))
    master, shown = joined(plain, silent, plain)
    assert actions(master) == ["copy"] * 3
    assert_same(shown, frames(plain) * 3)
    left = sound(master.path)[0]
    margin = 2400
    assert loudness(left[margin : _SAMPLES - margin]) > 0.05
    assert loudness(left[_SAMPLES + margin : 2 * _SAMPLES - margin]) < 0.001
    assert loudness(left[2 * _SAMPLES + margin : 3 * _SAMPLES - margin]) > 0.05


def test_no_sound_anywhere_is_a_silent_track(make: Make, joined: Join) -> None:
    silent = make(Recipe("silent", tone=0))
    master, shown = joined(silent, silent)
    assert actions(master) == ["copy"] * 2
    assert_same(shown, frames(silent) * 2)
    assert loudness(sound(master.path)) < 0.001


def test_mono_of_44100_samples_keeps_its_pitch_and_is_on_both_sides(
    plain: Path, make: Make, joined: Join
) -> None:
    coding = ("-c:a", "aac", "-ar", "44100", "-ac", "1")
    mono = make(Recipe("mono", tone=1000, sound_coding=coding))
    master, shown = joined(plain, mono, plain)
    assert actions(master) == ["copy"] * 3
    assert_same(shown, frames(plain) * 3)
    assert _tones(master, 3) == pytest.approx([440, 1000, 440], abs=5)
    left, right = sound(master.path)[:, _SAMPLES + 4800 : 2 * _SAMPLES - 4800]
    assert loudness(right) == pytest.approx(loudness(left), rel=0.05)
    assert loudness(left) > 0.05


def test_sound_longer_than_its_picture_does_not_delay_the_next_shot(
    plain: Path, make: Make, joined: Join
) -> None:
    long = make(Recipe("long-sound", tone=1000, tone_seconds=1.5))
    master, shown = joined(long, plain, long, plain)
    assert actions(master) == ["copy"] * 4
    assert_same(shown, frames(long) * 4)
    assert _tones(master, 4) == pytest.approx([1000, 440, 1000, 440], abs=5)
    left = sound(master.path)[0]
    # A twentieth of a second on either side of a join.
    assert pitch(left[_SAMPLES - 2400 : _SAMPLES]) == pytest.approx(1000, abs=40)
    assert pitch(left[_SAMPLES : _SAMPLES + 2400]) == pytest.approx(440, abs=40)


def test_sound_that_ends_early_is_followed_by_silence(
    plain: Path, make: Make, joined: Join
) -> None:
    short = make(Recipe("short-sound", tone_seconds=0.4))
    master, _ = joined(short, plain)
    assert actions(master) == ["copy"] * 2
    left = sound(master.path)[0]
    assert loudness(left[2400 : round(0.37 * 48_000)]) > 0.05
    assert loudness(left[round(0.45 * 48_000) : _SAMPLES - 2400]) < 0.005
    assert loudness(left[_SAMPLES + 2400 : 2 * _SAMPLES - 2400]) > 0.05


def test_sound_that_starts_late_stays_late(plain: Path, make: Make, joined: Join) -> None:
    late = make(Recipe("late-sound", tone=1000, tone_seconds=0.5, sound_delay=0.3))
    master, shown = joined(plain, late, plain)
    assert actions(master) == ["copy"] * 3
    assert_same(shown, frames(plain) * 3)
    left = sound(master.path)[0, _SAMPLES : 2 * _SAMPLES]
    assert loudness(left[2400 : round(0.27 * 48_000)]) < 0.005
    assert loudness(left[round(0.33 * 48_000) : round(0.75 * 48_000)]) > 0.05
