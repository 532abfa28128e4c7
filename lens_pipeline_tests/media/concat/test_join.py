"""Masters of shots that are alike, and what one master leaves for the next."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from shutil import copyfile

import av
import pytest

from lens_pipeline.media.concat.join import Master, join
from lens_pipeline.media.errors import Cancelled
from lens_pipeline_tests.media.concat.shots import (
    AV1,
    FRAMES,
    FULL_RANGE,
    H264,
    HEVC,
    OPUS,
    TOOLS,
    VP9,
    Join,
    Make,
    Recipe,
    actions,
    assert_same,
    check_master,
    damage,
    described,
    ffmpeg,
    frames,
    source,
    work_in,
)
from lens_pipeline_tests.media.samples import Pixels


@pytest.mark.parametrize("times", [1, 2])
def test_one_shot_and_the_same_shot_twice(plain: Path, joined: Join, times: int) -> None:
    master, shown = joined(*[plain] * times)
    assert (master.method, actions(master)) == ("copy", ["copy"] * times)
    assert {shot.reason for shot in master.shots} == {"matches"}
    assert_same(shown, frames(plain) * times)


@pytest.mark.parametrize(
    ("coding", "container"),
    [
        (HEVC, "mp4"),
        (VP9, "webm"),
        (VP9, "mp4"),
        (AV1, "mp4"),
        ((*H264, "-bf", "0"), "mkv"),
        (H264, "mov"),
    ],
)
def test_other_codecs_and_containers_are_copied_too(
    make: Make, joined: Join, coding: tuple[str, ...], container: str
) -> None:
    recipe = Recipe(rate="24", seconds=1, coding=coding, container=container)
    shot = make(replace(recipe, sound_coding=OPUS) if container == "webm" else recipe)
    master, shown = joined(shot, shot, rate=Fraction(24))
    assert (master.method, master.frames) == ("copy", 48)
    assert_same(shown, frames(shot) * 2)


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "60"])
def test_rates_are_kept_exactly(make: Make, joined: Join, rate: str) -> None:
    shot = make(Recipe("rate", rate=rate))
    master, _ = joined(shot, shot, shot, rate=Fraction(rate))
    assert master.method == "copy"
    video = described(master.path)["streams"][0]
    assert Fraction(video["avg_frame_rate"]) == Fraction(rate)


@pytest.mark.slow
def test_no_drift_adds_up_over_many_shots(make: Make, joined: Join) -> None:
    shot = make(Recipe("ntsc", rate="30000/1001", seconds=0.5, size="64x64"))
    master, shown = joined(*[shot] * 20, rate=Fraction(30000, 1001))
    assert (master.method, len(shown)) == ("copy", 20 * 15)
    audio = described(master.path)["streams"][1]
    exact = 20 * 15 * Fraction(1001, 30000)
    assert abs(Fraction(audio["duration_ts"], 48_000) - exact) <= Fraction(1, 24_000)


def test_full_range_shots_are_copied_among_themselves_only(make: Make, joined: Join) -> None:
    full = make(Recipe("full", coding=FULL_RANGE))
    master, shown = joined(full, full)
    assert (master.method, actions(master)) == ("copy", ["copy"] * 2)
    assert_same(shown, frames(full) * 2)


def test_shots_that_are_all_turned_stay_so(make: Make, joined: Join, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    sideways = make(Recipe("sideways", size="108x192"))
    ffmpeg("-display_rotation", "90", "-i", str(sideways), "-c", "copy", str(turned))
    master, shown = joined(turned, turned)
    assert (master.method, master.width, master.height) == ("copy", 192, 108)
    assert_same(shown, frames(sideways) * 2)
    with av.open(str(master.path)) as made, av.open(str(turned)) as original:
        rotation = next(made.decode(video=0)).rotation
        assert rotation == next(original.decode(video=0)).rotation == 90


class Folder:
    """Pieces in a directory."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path

    def find(self, key: str) -> Path | None:
        file = self.path / key
        return file if file.is_file() else None

    def keep(self, key: str, file: Path) -> None:
        copyfile(file, self.path / key)


@pytest.fixture
def pieces(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "pieces")


def _join_with(pieces: Folder, *paths: Path) -> tuple[Master, list[Pixels]]:
    work = work_in(pieces.path.parent / "work")
    master = join([source(path) for path in paths], TOOLS, work, pieces)
    return master, check_master(master)


@pytest.mark.slow
def test_a_second_master_takes_what_the_first_has_made(
    plain: Path, make: Make, pieces: Folder
) -> None:
    odd, new = make(Recipe("rate-30", rate="30")), make(Recipe("rate-60", rate="60"))
    first, shown = _join_with(pieces, plain, odd, plain)
    second, again = _join_with(pieces, plain, odd, plain, new)
    assert [shot.cached for shot in first.shots] == [False] * 3
    assert [shot.cached for shot in second.shots] == [True] * 3 + [False]
    assert actions(first) == ["copy", "encode", "copy"]
    assert actions(second) == [*actions(first), "encode"]
    assert (first.fallback, second.fallback) == (None, None)
    assert_same(again[: 3 * FRAMES], shown)
    assert all(len(file.name) < 80 for file in pieces.path.iterdir())


@pytest.mark.slow
def test_a_piece_that_changed_in_the_store_is_not_used(
    plain: Path, make: Make, pieces: Folder
) -> None:
    odd = make(Recipe("rate-30", rate="30"))
    _join_with(pieces, plain, odd, plain)
    (piece,) = pieces.path.glob("*.mp4")
    damage(piece, piece, 0.3)
    master, shown = _join_with(pieces, plain, odd, plain)
    assert master.fallback is not None and master.method == "encode"
    assert len(shown) == 3 * FRAMES


@pytest.mark.slow
def test_an_interrupted_master_loses_no_shot_that_is_encoded(
    plain: Path, make: Make, pieces: Folder
) -> None:
    """A master over the time limit of a run that never gets further than the last attempt."""
    odd = [make(Recipe(f"rate-{rate}", rate=rate)) for rate in ("30", "60")]
    shots = [plain, *odd, plain]
    work = work_in(pieces.path.parent / "work")
    work = replace(work, cancelled=lambda: any(pieces.path.glob("*.mp4")))
    with pytest.raises(Cancelled):
        join([source(path) for path in shots], TOOLS, work, pieces)
    kept = len(list(pieces.path.glob("*.mp4")))
    master, _ = _join_with(pieces, *shots)
    assert actions(master) == ["copy", "encode", "encode", "copy"]
    assert sum(shot.cached for shot in master.shots) == kept >= 1


def test_facts_of_another_version_are_read_anew(plain: Path, pieces: Folder) -> None:
    (pieces.path / f"{source(plain).sha256}-1.json").write_text('{"old": 1}')
    master, _ = _join_with(pieces, plain)
    assert not master.shots[0].cached
