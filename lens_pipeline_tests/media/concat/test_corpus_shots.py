"""Masters of small odd files: how many frames, where they flash and beep."""

from pathlib import Path

import numpy as np
import pytest

from lens_pipeline.media.concat.audio import DAMAGED
from lens_pipeline.media.concat.join import Master, examine, join
from lens_pipeline.media.concat.probe import Shot
from lens_pipeline.media.errors import ShotError
from lens_pipeline_tests.media.concat.shots import TOOLS, frames, sound, source, work_in
from lens_pipeline_tests.media.concat.test_join import Folder

_CORPUS = Path(__file__).parents[1] / "corpus"
_PLAIN = "plain-blue-24.mp4"
# Of 0 to 255, and of 1.
_FLASH, _BEEP = 195, 0.12
_SAMPLE_RATE = 48_000
# Seconds between two flashes, at the least.
_APART = 0.4


def _onsets(is_on: np.ndarray, per_second: float) -> list[float]:
    """Seconds at which it comes on after a pause."""
    times = np.flatnonzero(is_on) / per_second
    return times[np.diff(times, prepend=-1) > _APART].tolist()


def _flashes(master: Master) -> list[float]:
    is_white = np.array([frame.mean() > _FLASH for frame in frames(master.path)])
    return _onsets(is_white, master.frames / master.duration_seconds)


def _beeps(master: Master) -> list[float]:
    return _onsets(np.abs(sound(master.path)).max(axis=0) > _BEEP, _SAMPLE_RATE)


_JOINED = {
    f"{_PLAIN} matrix-ycgco.mp4 {_PLAIN}": (72, [0.5, 1.5, 2.5], [0.5, 1.5, 2.5]),
    f"{_PLAIN} matrix-gbr-tag.mp4 {_PLAIN}": (72, [0.5, 1.5, 2.5], [0.5, 1.5, 2.5]),
    f"size-change-vp9.webm {_PLAIN}": (72, [0.5, 1.5, 2.5], [0.5, 1.5, 2.5]),
    f"two-audio-second-default.mp4 {_PLAIN}": (48, [0.5, 1.5], [0.5, 1.5]),
    f"audio-late.mp4 {_PLAIN}": (48, [0.5, 1.5], [0.8, 1.5]),
    f"{_PLAIN} fps-120.mp4 fps-16.mp4": (113, [0.5, 1.5, 2.5], [0.5, 1.5, 2.5]),
    f"mp3-mono.mp4 {_PLAIN} ac3-51.mkv": (72, [0.5, 1.5, 2.5], [0.5, 1.5, 2.5]),
    f"one-frame.mp4 {_PLAIN}": (25, [0.542], [0.542]),
    f"vp8-alt-ref.webm {_PLAIN}": (72, [0.5, 2.5], None),
    f"mkv-starts-at-10s.mkv {_PLAIN}": (48, [0.5, 1.5], [0.5, 1.5]),
}


def _joined(names: str, directory: Path) -> Master:
    """As in a project: each shot is examined when it is added."""
    directory.mkdir(exist_ok=True)
    work, pieces = work_in(directory / "work"), Folder(directory / "pieces")
    sources = [source(_CORPUS / name) for name in names.split()]
    for one in sources:
        examine(one, TOOLS, work, pieces)
    return join(sources, TOOLS, work, pieces)


def _examined(name: str, directory: Path) -> Shot:
    directory.mkdir(exist_ok=True)
    pieces = Folder(directory / "pieces")
    return examine(source(_CORPUS / name), TOOLS, work_in(directory / "work"), pieces)


@pytest.mark.slow
@pytest.mark.parametrize(("names", "expected"), _JOINED.items(), ids=_JOINED)
def test_odd_shots_are_shown_and_heard_when_they_should_be(
    names: str, expected: tuple[int, list[float], list[float] | None], tmp_path: Path
) -> None:
    count, flashes, beeps = expected
    master = _joined(names, tmp_path)
    assert master.fallback is None
    assert (master.frames, len(frames(master.path))) == (count, count)
    tolerance = 0.045 if "fps" in names else 0.021
    assert _flashes(master) == pytest.approx(flashes, abs=tolerance)
    if beeps is not None:
        assert _beeps(master) == pytest.approx(beeps, abs=tolerance)


@pytest.mark.slow
def test_a_damaged_piece_of_sound_is_silent_and_told(tmp_path: Path) -> None:
    """A film that dies of a fiftieth of a second that no one hears."""
    name = "damaged-aac-frame.mp4"
    examined = _examined(name, tmp_path / "alone")
    assert examined.audio and examined.audio.damaged
    master = _joined(f"{name} {_PLAIN}", tmp_path / "joined")
    assert master.shots[0].reason.endswith(DAMAGED)
    assert DAMAGED not in master.shots[1].reason
    heard = np.abs(sound(master.path)).max(axis=0)[: int(1.9 * _SAMPLE_RATE)]
    silent = np.flatnonzero(heard > 0.001)
    assert np.diff(silent).max() / _SAMPLE_RATE <= 0.05


def test_a_matrix_that_no_filter_converts_is_named_when_the_shot_is_added(tmp_path: Path) -> None:
    with pytest.raises(ShotError, match="colour matrix ictcp, which is not supported"):
        _examined("matrix-ictcp.mp4", tmp_path)
