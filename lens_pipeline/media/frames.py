"""Chooses the frame that shows most. Decoding and seeking belong to `posters`."""

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation
from numpy.typing import NDArray

# Pixels: enough to tell black, white and blur.
_JUDGED_WIDTH = 160
# Luma, 0 to 255. A usable frame has a smaller share of darker and of brighter pixels, and a larger
# standard deviation.
_DARK, _BRIGHT = 32, 235
_LARGEST_SHARE = 0.85
_SMALLEST_DEVIATION = 8.0
# Luma of a well exposed frame.
_MIDDLE = 118.0

# Earlier frames are second choice: encoders start badly, and fades come first.
_EARLY_SECONDS = 0.25
# Frames to judge during a fade.
_FRAMES_AFTER_FADE = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    frame: av.VideoFrame
    seconds: float


@dataclass(frozen=True, slots=True)
class _Judged:
    candidate: Candidate
    usable: bool
    score: float


class Chooser:
    def __init__(self) -> None:
        self._best: _Judged | None = None
        self._early: _Judged | None = None
        self._unusable: _Judged | None = None

    @property
    def usable(self) -> Candidate | None:
        found = self._best or self._early
        return found.candidate if found else None

    @property
    def any(self) -> Candidate | None:
        """Also if all are black."""
        return self.usable or (self._unusable.candidate if self._unusable else None)

    def watch(self, beginning: Iterable[Candidate]) -> None:
        """Judge the beginning of a video until a good frame is found."""
        seen = 0
        for candidate in beginning:
            judged = _judge(candidate)
            self._keep(judged)
            seen += judged.usable and self._best is not None
            if seen == (_FRAMES_AFTER_FADE if self._unusable else 1):
                return

    def consider(self, candidate: Candidate) -> None:
        self._keep(_judge(candidate))

    def _keep(self, judged: _Judged) -> None:
        if not judged.usable:
            self._unusable = _better(self._unusable, judged)
        elif judged.candidate.seconds < _EARLY_SECONDS:
            self._early = _better(self._early, judged)
        else:
            self._best = _better(self._best, judged)


def _better(old: _Judged | None, new: _Judged) -> _Judged:
    return new if old is None or new.score > old.score else old


def _judge(candidate: Candidate) -> _Judged:
    luma = _luma(candidate.frame)
    deviation = float(luma.std())
    usable = (
        float((luma < _DARK).mean()) < _LARGEST_SHARE
        and float((luma > _BRIGHT).mean()) < _LARGEST_SHARE
        and deviation > _SMALLEST_DEVIATION
        and not candidate.frame.is_corrupt
    )
    exposure = abs(float(luma.mean()) - _MIDDLE) / _MIDDLE
    # Both terms are about 1 to 7 for ordinary frames.
    score = deviation / 10 + float(np.log1p(_sharpness(luma))) - 4 * exposure
    return _Judged(candidate, usable, score)


def _luma(frame: av.VideoFrame) -> NDArray[np.float32]:
    height = max(1, round(frame.height * _JUDGED_WIDTH / frame.width))
    grey = frame.reformat(
        width=_JUDGED_WIDTH,
        # Bounds a narrow strip.
        height=min(height, _JUDGED_WIDTH * 2),
        format="gray",
        interpolation=Interpolation.AREA,
        dst_color_range=ColorRange.JPEG,
    )
    return grey.to_ndarray().astype(np.float32)


def _sharpness(luma: NDArray[np.float32]) -> float:
    """Variance of the Laplacian."""
    if min(luma.shape) < 3:
        return 0.0
    centre = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((around - 4 * centre).var())
