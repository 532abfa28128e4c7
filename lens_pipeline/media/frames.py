"""Which frame of a video says most about it."""

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation
from numpy.typing import NDArray

# Frames are judged on a grey copy of this width, pixels: enough to tell black, white and blur.
_JUDGED_WIDTH = 160
# Luma, 0 to 255, below and above which a pixel counts as dark or bright, the largest share of such
# pixels and the smallest standard deviation of a frame that shows something.
_DARK, _BRIGHT = 32, 235
_LARGEST_SHARE = 0.85
_SMALLEST_DEVIATION = 8.0
# Luma of a well exposed frame.
_MIDDLE = 118.0

# Encoders need a moment after a scene starts, and fades and title cards come first.
_SETTLED_SECONDS = 0.25
# Usable frames to look at before choosing, once frames without content came before: a fade is
# still under way.
_LOOK_AFTER_FADE = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A decoded frame and its time from the start of the video."""

    frame: av.VideoFrame
    seconds: float


@dataclass(frozen=True, slots=True)
class _Judged:
    candidate: Candidate
    usable: bool
    score: float


class Chooser:
    """Remembers the best of the frames it was shown."""

    def __init__(self) -> None:
        self._best: _Judged | None = None
        self._early: _Judged | None = None
        self._unusable: _Judged | None = None

    @property
    def usable(self) -> Candidate | None:
        """The best frame that shows something."""
        found = self._best or self._early
        return found.candidate if found else None

    @property
    def any(self) -> Candidate | None:
        """The best frame, even if all are black."""
        return self.usable or (self._unusable.candidate if self._unusable else None)

    def watch(self, beginning: Iterable[Candidate]) -> None:
        """Judge the frames of a video's beginning, in order, until a good one is found."""
        seen = 0
        for candidate in beginning:
            judged = _judge(candidate)
            self._keep(judged)
            seen += judged.usable and self._best is not None
            if seen == (_LOOK_AFTER_FADE if self._unusable else 1):
                return

    def consider(self, candidate: Candidate) -> None:
        """Judge one more frame, from anywhere in the video."""
        self._keep(_judge(candidate))

    def _keep(self, judged: _Judged) -> None:
        if not judged.usable:
            self._unusable = _better(self._unusable, judged)
        elif judged.candidate.seconds < _SETTLED_SECONDS:
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
    # Contrast and the logarithm of sharpness are of one size, about 1 to 7 for ordinary frames.
    score = deviation / 10 + float(np.log1p(_sharpness(luma))) - 4 * exposure
    return _Judged(candidate, usable, score)


def _luma(frame: av.VideoFrame) -> NDArray[np.float32]:
    height = max(1, round(frame.height * _JUDGED_WIDTH / frame.width))
    grey = frame.reformat(
        width=_JUDGED_WIDTH,
        # A strip of a frame needs no more rows than columns to be judged.
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
