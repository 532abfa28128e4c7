"""What is seen and heard around the joins of finished masters, against the shots."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from lens_pipeline.media.concat.join import Master, Source, join
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline_tests.media.samples import Pixels, Sound, silence, texture, write_video
from lens_pipeline_tests.media.similarity import ssim

pytestmark = pytest.mark.slow

_RATE, _FRAMES, _SHOTS = 24, 24, 11
_WIDTH, _HEIGHT = 320, 180
# Seen and heard at the same time in each shot, away from the joins.
_FLASH = 9
_CLICK_SAMPLE = _FLASH * 48_000 // _RATE
# Sound outlasts the picture in many files: enough to add up to what everybody hears.
_EXTRA_SOUND_SECONDS = 0.037
_AROUND = 5
_BT709 = (1, 1, 1)


@dataclass(frozen=True, slots=True)
class _Joined:
    master: Master
    shots: list[Path]
    frames: list[Pixels]
    sound: Sound


@pytest.fixture(scope="module", params=["copy", "partial", "encode"])
def joined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Joined:
    """A master of eleven shots: all alike, two odd ones, or mostly of a codec not encoded."""
    directory = tmp_path_factory.mktemp(request.param)
    shots = [_shot(directory, number, request.param) for number in range(_SHOTS)]
    sources = [
        Source(path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in shots
    ]
    work = Work(directory, lambda: False, lambda stage, share: None)
    master = join(sources, Tools.find(), work)
    assert (master.method, master.fallback) == (request.param, None)
    return _Joined(master, shots, _frames(master.path), _sound(master.path))


def _shot(directory: Path, number: int, method: str) -> Path:
    is_odd = method != "copy" and number in {3, 10}
    codec = "libx265" if method == "encode" and not is_odd else "libx264"
    sound = silence(_FRAMES / _RATE + _EXTRA_SOUND_SECONDS)
    sound[:, _CLICK_SAMPLE : _CLICK_SAMPLE + 48] = 0.9
    return write_video(
        directory / f"shot-{number}.mp4",
        _moving(number, 240 if is_odd else _WIDTH),
        rate=_RATE,
        codec=codec,
        colour=_BT709,
        sound=sound,
        encoder_options={"crf": "18"} | ({"x265-params": "log-level=none"} if "5" in codec else {}),
    )


def _moving(seed: int, width: int) -> Iterator[Pixels]:
    """A pan over detail, so that each frame differs from the next, with one white frame."""
    rng = np.random.default_rng(seed)
    coarse = np.asarray(texture(width + 160, _HEIGHT + 80, seed), np.float64)
    fine = np.kron(rng.normal(0, 25, (coarse.shape[0] // 4, coarse.shape[1] // 4)), np.ones((4, 4)))
    scene = np.clip(coarse + fine[:, :, None], 0, 255).astype(np.uint8)
    for n in range(_FRAMES):
        if n == _FLASH:
            yield np.full((_HEIGHT, width, 3), 255, np.uint8)
        else:
            yield scene[2 * n : 2 * n + _HEIGHT, 6 * n : 6 * n + width]


def _frames(path: Path) -> list[Pixels]:
    """In grey, within the size of the master as it has to be: black beside a narrower picture."""
    with av.open(str(path)) as container:
        decoded = container.decode(video=0)
        return [_fitted(frame) for frame in decoded]


def _fitted(frame: av.VideoFrame) -> Pixels:
    scale = min(Fraction(_WIDTH, frame.width), Fraction(_HEIGHT, frame.height))
    scaled = frame.reformat(
        width=round(frame.width * scale),
        height=round(frame.height * scale),
        format="gray",
        interpolation=Interpolation.LANCZOS,
    ).to_ndarray()
    fitted = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    top, left = (_HEIGHT - scaled.shape[0]) // 2, (_WIDTH - scaled.shape[1]) // 2
    fitted[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return fitted


def _sound(path: Path) -> Sound:
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(decoded, axis=1).astype(np.float32)


def _near_joins(shot: int) -> list[int]:
    """Numbers of the frames of a shot beside its joins."""
    first = [] if shot == 0 else list(range(_AROUND))
    last = [] if shot == _SHOTS - 1 else list(range(_FRAMES - _AROUND, _FRAMES))
    return first + last


def test_the_frames_around_each_join_are_those_of_the_shots(joined: _Joined) -> None:
    """A frame too many, one that is lost, or a grey one: decoders that lack what came before."""
    assert len(joined.frames) == _SHOTS * _FRAMES
    for number, (path, report) in enumerate(zip(joined.shots, joined.master.shots, strict=True)):
        wanted = _frames(path)
        for n in _near_joins(number):
            shown = joined.frames[number * _FRAMES + n]
            if report.action == "copy":
                assert np.array_equal(shown, wanted[n])
            else:
                assert ssim(shown, wanted[n]) >= 0.95
            # No other frame would do.
            assert ssim(shown, wanted[n - 1 if n else n + 1]) < 0.9


def test_sound_and_picture_are_together_after_ten_joins_as_before(joined: _Joined) -> None:
    """Lips that move half a second after the voice at the end of a long master."""
    first, last = _offset(joined, 0), _offset(joined, _SHOTS - 1)
    assert abs(first) <= 0.02
    assert abs(last) <= 0.02
    assert abs(last - first) <= 0.02


def _offset(joined: _Joined, shot: int) -> float:
    """Seconds from a shot's flash to its click, each wherever it is in the master."""
    start = shot * _FRAMES
    lightness = [frame.mean() for frame in joined.frames[start : start + _FRAMES]]
    flash = (start + int(np.argmax(lightness))) / _RATE
    first_sample = start * 48_000 // _RATE
    loudness = np.abs(joined.sound[0, first_sample : first_sample + 48_000 * _FRAMES // _RATE])
    click = (first_sample + int(np.argmax(loudness))) / 48_000
    return click - flash
