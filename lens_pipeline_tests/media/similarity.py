"""How alike two pictures are."""

import numpy as np
from numpy.typing import NDArray

from lens_pipeline_tests.media.samples import Pixels

# Of SSIM (Wang et al. 2004) for 8 bits: (0.01 * 255)^2 and (0.03 * 255)^2.
_C1, _C2 = 6.5025, 58.5225


def ssim(one: Pixels, other: Pixels) -> float:
    """Mean structural similarity of two grey pictures of one size, 1 if they are the same.

    Over windows of 8x8 pixels, each 4 from the next, as in FFmpeg's ssim filter.
    """
    assert one.shape == other.shape
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _means(x), _means(y)
    variance_x = _means(x * x) - mean_x**2
    variance_y = _means(y * y) - mean_y**2
    covariance = _means(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return float((luminance * structure).mean())


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each window; rows and columns beyond the last whole 4 are left out."""
    height, width = (edge // 4 * 4 for edge in values.shape)
    blocks = values[:height, :width].reshape(height // 4, 4, width // 4, 4).mean(axis=(1, 3))
    return (blocks[:-1, :-1] + blocks[1:, :-1] + blocks[:-1, 1:] + blocks[1:, 1:]) / 4
