"""Chooses the frame that shows most; `posters` decodes."""

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

# Pixels: black, white and blur can be told.
_JUDGED_WIDTH = 160
# Luma, 0 to 255. A usable frame has a smaller share of darker and of brighter pixels, and a larger
# standard deviation.
_DARK, _BRIGHT = 32, 235
_LARGEST_SHARE = 0.85
_SMALLEST_DEVIATION = 8.0
# Luma of a well exposed frame.
_MIDDLE = 118.0

# Encoders start badly.
_EARLY_SECONDS = 0.25
# Frames to judge during a fade.
_FRAMES_AFTER_FADE = 4
_UNUSABLE, _EARLY, _GOOD = range(3)


@dataclass(frozen=True, slots=True)
class Candidate:
    frame: av.VideoFrame
    seconds: float


class Chooser:
    """Keeps the best frame it has judged."""

    def __init__(self) -> None:
        self._best: tuple[int, float, Candidate] | None = None

    @property
    def usable(self) -> Candidate | None:
        return self._best[2] if self._best and self._best[0] > _UNUSABLE else None

    @property
    def any(self) -> Candidate | None:
        """Also if all are black."""
        return self._best[2] if self._best else None

    def watch(self, beginning: Iterable[Candidate]) -> None:
        """Judge until a good frame is found."""
        seen, wanted = 0, 1
        for candidate in beginning:
            rank = self.consider(candidate)
            if rank == _UNUSABLE:
                wanted = _FRAMES_AFTER_FADE
            elif self._best and self._best[0] == _GOOD:
                seen += 1
            if seen == wanted:
                return

    def consider(self, candidate: Candidate) -> int:
        """Judge one more frame; its rank."""
        rank, score = _judge(candidate)
        if self._best is None or (rank, score) > self._best[:2]:
            self._best = rank, score, candidate
        return rank


def _judge(candidate: Candidate) -> tuple[int, float]:
    luma = _luma(candidate.frame)
    deviation = float(luma.std())
    exposure = abs(float(luma.mean()) - _MIDDLE) / _MIDDLE
    # Both terms are about 1 to 7.
    score = deviation / 10 + float(np.log1p(_sharpness(luma))) - 4 * exposure
    is_usable = (
        float((luma < _DARK).mean()) < _LARGEST_SHARE
        and float((luma > _BRIGHT).mean()) < _LARGEST_SHARE
        and deviation > _SMALLEST_DEVIATION
        and not candidate.frame.is_corrupt
    )
    if not is_usable:
        return _UNUSABLE, score
    return _EARLY if candidate.seconds < _EARLY_SECONDS else _GOOD, score


def has_alpha(frame: av.VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _luma(frame: av.VideoFrame) -> NDArray[np.float32]:
    """What is transparent counts as well exposed and plain."""
    if not has_alpha(frame):
        return _small(frame, "gray")
    small = _small(frame, "rgba")
    opacity = small[..., 3] / 255
    return small[..., :3].mean(axis=2) * opacity + _MIDDLE * (1 - opacity)


def _small(frame: av.VideoFrame, kind: str) -> NDArray[np.float32]:
    height = max(1, round(frame.height * _JUDGED_WIDTH / frame.width))
    small = frame.reformat(
        width=_JUDGED_WIDTH,
        # Bounds a narrow strip.
        height=min(height, _JUDGED_WIDTH * 2),
        format=kind,
        interpolation=Interpolation.AREA,
        # Luma is the same in all; swscale refuses some tags.
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.JPEG,
    )
    return small.to_ndarray().astype(np.float32)


def _sharpness(luma: NDArray[np.float32]) -> float:
    """Variance of the Laplacian."""
    if min(luma.shape) < 3:
        return 0.0
    centre = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((around - 4 * centre).var())
