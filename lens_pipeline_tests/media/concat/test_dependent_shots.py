"""Shots that decode without an error after another one, but would be shown wrong."""

import resource
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lens_pipeline.media.concat.join import Master, examine, join
from lens_pipeline.media.errors import MediaError, ShotError
from lens_pipeline_tests.media.concat.shots import (
    H264,
    HEVC,
    TOOLS,
    VP9,
    Recipe,
    check_master,
    damage,
    ffmpeg,
    frames,
    loudness,
    sound,
    source,
    work_in,
)
from lens_pipeline_tests.media.concat.test_join import Folder
from lens_pipeline_tests.media.samples import Pixels

_FRAMES = 20
# Each packet says by itself what it is: times need no reordering to be made up.
_RAW = (*H264, "-bf", "0", "-f", "h264")


# With a second group of pictures.
_GROUPS = Recipe("groups", filters="noise=alls=40:allf=t", coding=(*H264, "-g", "10", "-crf", "18"))


def _join(tmp_path: Path, *paths: Path, pieces: Folder | None = None) -> Master:
    return join([source(path) for path in paths], TOOLS, work_in(tmp_path / "work"), pieces)


def _difference(some: list[Pixels], others: list[Pixels]) -> float:
    pairs = zip(some, others, strict=True)
    return max(float(np.abs(one.astype(int) - other.astype(int)).mean()) for one, other in pairs)


@pytest.mark.parametrize("mirror", ["-display_vflip", "-display_hflip"])
def test_a_mirrored_shot_is_shown_mirrored_beside_others(
    plain: Path, tmp_path: Path, mirror: str
) -> None:
    mirrored = tmp_path / "mirrored.mp4"
    ffmpeg(mirror, "-i", str(plain), "-c", "copy", str(mirrored))
    master = _join(tmp_path, plain, mirrored, plain)
    assert [shot.action for shot in master.shots] == ["copy", "encode", "copy"]
    assert master.shots[1].reason == "it is shown mirrored, which not all players do"
    shown = check_master(master, Fraction(25))
    axis = 0 if mirror == "-display_vflip" else 1
    wanted = [np.flip(picture, axis) for picture in frames(plain)]
    assert _difference(shown[_FRAMES : 2 * _FRAMES], wanted) < 5
    assert _difference(shown[2 * _FRAMES :], frames(plain)) == 0


def test_a_shot_cut_within_a_gradual_refresh_is_not_mixed_with_the_one_before(
    tmp_path: Path,
) -> None:
    """Its first frame is for random access, but made of frames that were cut off."""
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    refresh = ("-x264-params", "intra-refresh=1:keyint=25:scenecut=0")
    pattern = ("-f", "lavfi", "-i", "mandelbrot=size=192x108:rate=25", "-t", "2")
    ffmpeg(*pattern, *H264, "-bf", "0", *refresh, str(whole))
    ffmpeg("-ss", "1", "-i", str(whole), "-c", "copy", str(cut))
    with pytest.raises(MediaError, match=r"shot cut has a wrong number of frames"):
        _join(tmp_path, cut, cut)


@pytest.fixture
def changing_and_bare(tmp_path: Path) -> tuple[Path, Path]:
    """The first's parameter sets change on the way; the second has them in its header only."""
    for name, offset in (("first", 0), ("second", -8)):
        colours = ("-x264-params", f"chroma-qp-offset={offset}")
        pattern = ("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25:duration=0.8")
        ffmpeg(*pattern, *_RAW, *colours, str(tmp_path / f"{name}.h264"))
    first, second = ((tmp_path / f"{name}.h264").read_bytes() for name in ("first", "second"))
    (tmp_path / "both.h264").write_bytes(first + second)
    changing, bare = tmp_path / "changing.mp4", tmp_path / "bare.mp4"
    ffmpeg("-r", "25", "-i", str(tmp_path / "both.h264"), "-c", "copy", str(changing))
    without = ("-c", "copy", "-bsf:v", "filter_units=remove_types=7|8")
    ffmpeg("-r", "25", "-i", str(tmp_path / "first.h264"), *without, str(bare))
    return changing, bare


def test_parameter_sets_that_change_on_the_way_do_not_reach_the_next_shot(
    changing_and_bare: tuple[Path, Path], tmp_path: Path
) -> None:
    changing, bare = changing_and_bare
    master = _join(tmp_path, changing, bare)
    reason = "shot changing cannot be copied: its parameter sets change on the way"
    assert master.fallback == reason
    shown = check_master(master, Fraction(25))
    assert _difference(shown, frames(changing) + frames(bare)) < 5
    # Harmless where nothing follows.
    assert _join(tmp_path, bare, changing).method == "copy"


def _checked_and_unseen(tmp_path: Path, *paths: Path) -> tuple[Master, Master, list[str]]:
    """A master of shots that were examined, one of the same shots that were not, and the stages."""
    pieces, stages = Folder(tmp_path / paths[0].stem), list[str]()
    sources = [source(path) for path in paths]
    for each in sources:
        examine(each, TOOLS, work_in(tmp_path / "examined"), pieces)
    work = work_in(tmp_path / "again", report=lambda stage, share: stages.append(stage))
    return join(sources, TOOLS, work, pieces), _join(tmp_path, *paths), stages


def _check_same(checked: Master, unseen: Master) -> None:
    assert (checked.method, checked.fallback) == (unseen.method, unseen.fallback)
    assert checked.path.read_bytes() == unseen.path.read_bytes()


@pytest.mark.parametrize(
    ("recipe", "are_clean"),
    [
        (_GROUPS, True),
        (Recipe("hevc", coding=HEVC), True),
        (replace(_GROUPS, name="open", coding=(*_GROUPS.coding, "-flags", "-cgop")), True),
        (Recipe("fields", coding=(*H264, "-flags", "+ildct+ilme")), False),
        (Recipe("vp9", coding=VP9), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_checked_shots_are_decoded_in_full_at_joins_that_are_not_clean(
    recipe: Recipe, are_clean: bool, tmp_path: Path
) -> None:
    """What a shorter check cannot see."""
    shot = recipe.make(tmp_path)
    checked, unseen, stages = _checked_and_unseen(tmp_path, shot, shot, shot)
    assert checked.method == "copy"
    _check_same(checked, unseen)
    assert ("checking joins" in stages) == are_clean


def test_checked_shots_whose_parameter_sets_change_are_refused_as_unseen_ones(
    changing_and_bare: tuple[Path, Path], tmp_path: Path
) -> None:
    changing, bare = changing_and_bare
    checked, unseen, _ = _checked_and_unseen(tmp_path, changing, bare)
    assert "parameter sets change on the way" in (checked.fallback or "")
    _check_same(checked, unseen)
    # Harmless where nothing follows.
    checked, unseen, stages = _checked_and_unseen(tmp_path, bare, changing)
    assert checked.method == "copy"
    _check_same(checked, unseen)
    assert "checking joins" not in stages


@pytest.mark.parametrize("share", [0.52, 0.95], ids=["decoded", "not decoded"])
def test_damage_before_a_clean_join_is_found_whatever_the_facts_say(
    share: float, tmp_path: Path
) -> None:
    shot = _GROUPS.make(tmp_path)
    broken = damage(tmp_path / "broken.mp4", shot, share)
    pieces = Folder(tmp_path / "pieces")
    examine(source(shot), TOOLS, work_in(tmp_path / "work"), pieces)
    (facts,) = pieces.path.iterdir()
    copied = facts.name.replace(source(shot).sha256, source(broken).sha256)
    shutil.copyfile(facts, pieces.path / copied)
    with pytest.raises(ShotError, match=r"'broken': video is damaged at 0\.[4-8] s"):
        _join(tmp_path, shot, broken, shot, pieces=pieces)


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "other"])
def test_a_damaged_piece_in_the_store_is_made_again(
    plain: Path, tmp_path: Path, damage: str
) -> None:
    odd = Recipe("odd", rate="30").make(tmp_path)
    pieces = Folder(tmp_path / "pieces")
    assert _join(tmp_path, plain, odd, plain, pieces=pieces).method == "partial"
    (piece,) = pieces.path.glob("*.mp4")
    whole = piece.read_bytes()
    damaged = {"cut": whole[:-900], "zeros": bytes(len(whole)), "empty": b""}
    piece.write_bytes(damaged.get(damage, plain.read_bytes()))
    master = _join(tmp_path, plain, odd, plain, pieces=pieces)
    assert (master.method, master.shots[1].cached) == ("partial", False)
    assert piece.read_bytes() == whole


def test_what_a_source_calls_its_encoder_is_not_in_the_master(plain: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.mov"
    name = ("-metadata:s:v", "encoder=Camera of Jane Doe")
    ffmpeg("-i", str(plain), "-c", "copy", *name, str(named))
    assert b"Jane Doe" in named.read_bytes()
    master = _join(tmp_path, named, named)
    assert master.method == "copy"
    assert b"Jane Doe" not in master.path.read_bytes()


def test_sound_hours_after_the_picture_is_not_waited_for(plain: Path, tmp_path: Path) -> None:
    """The silence between takes gigabytes."""
    late = tmp_path / "late.mp4"
    inputs = ("-i", str(plain), "-itsoffset", "36000", "-i", str(plain))
    ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-c", "copy", str(late))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    master = _join(tmp_path, late, plain)
    # In KiB, of the largest process so far.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 1 << 20)
    heard = sound(master.path)[0]
    half = 48_000 * _FRAMES // 25
    assert loudness(heard[: half - 2048]) < 0.001
    assert loudness(heard[half + 2048 :]) > 0.05
