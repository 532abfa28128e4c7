"""ThumbHash, a placeholder in 25 bytes, as of https://github.com/evanw/thumbhash.

Packages on PyPI are unmaintained or pin a Pillow before version 11.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]

# Pixels, by the format.
MAX_EDGE = 100


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Hash RGB or RGBA (height, width, bands), not premultiplied.

    Raises ValueError: a side is over `MAX_EDGE`.
    """
    height, width, bands = pixels.shape
    if max(height, width) > MAX_EDGE:
        raise ValueError(f"{width}x{height} does not fit in {MAX_EDGE}x{MAX_EDGE}")
    colour, alpha = pixels[..., :3] / 255, pixels[..., 3:] / 255
    has_alpha = bands == 4 and bool(alpha.min() < 1)
    if has_alpha:
        colour = _on_average(colour, alpha)
    red, green, blue = np.moveaxis(colour, -1, 0)
    # Fewer luminance terms make room for alpha.
    limit = 5 if has_alpha else 7
    columns = max(1, _round(limit * width / max(width, height)))
    rows = max(1, _round(limit * height / max(width, height)))

    l_dc, l_ac, l_scale = _cosine_terms((red + green + blue) / 3, max(3, columns), max(3, rows))
    p_dc, p_ac, p_scale = _cosine_terms((red + green) / 2 - blue, 3, 3)
    q_dc, q_ac, q_scale = _cosine_terms(red - green, 3, 3)
    is_landscape = width > height
    header24 = (
        _round(63 * l_dc)
        | _round(31.5 + 31.5 * p_dc) << 6
        | _round(31.5 + 31.5 * q_dc) << 12
        | _round(31 * l_scale) << 18
        | has_alpha << 23
    )
    header16 = (
        (rows if is_landscape else columns)
        | _round(63 * p_scale) << 3
        | _round(63 * q_scale) << 9
        | is_landscape << 15
    )
    header = header24.to_bytes(3, "little") + header16.to_bytes(2, "little")
    terms = [*l_ac, *p_ac, *q_ac]
    if has_alpha:
        a_dc, a_ac, a_scale = _cosine_terms(alpha[..., 0], 5, 5)
        header += bytes([_round(15 * a_dc) | _round(15 * a_scale) << 4])
        terms += a_ac
    return header + _pack_nibbles([_round(15 * term) for term in terms])


def _on_average(colour: _Floats, alpha: _Floats) -> _Floats:
    average = (colour * alpha).sum((0, 1)) / (alpha.sum() or 1)
    return average * (1 - alpha) + colour * alpha


def _cosine_terms(channel: _Floats, columns: int, rows: int) -> tuple[float, list[float], float]:
    """The constant, the low frequencies scaled to 0…1, and their scale."""
    height, width = channel.shape
    terms = _cosines(rows, height) @ channel @ _cosines(columns, width).T / (width * height)
    spectrum: list[list[float]] = terms.tolist()
    varying = [
        spectrum[y][x]
        for y in range(rows)
        for x in range(columns)
        if (x or y) and x * rows < columns * (rows - y)
    ]
    scale = max(map(abs, varying))
    if scale:
        varying = [0.5 + 0.5 / scale * term for term in varying]
    return spectrum[0][0], varying, scale


@cache
def _cosines(terms: int, size: int) -> _Floats:
    return np.cos(np.pi / size * np.outer(np.arange(terms), np.arange(size) + 0.5))


def _pack_nibbles(nibbles: list[int]) -> bytes:
    """The first in the low half of a byte."""
    padded = nibbles + [0] * (len(nibbles) % 2)
    return bytes(low | high << 4 for low, high in zip(padded[::2], padded[1::2], strict=True))


def _round(value: float) -> int:
    """Halves go up, as in JavaScript."""
    return math.floor(value + 0.5)
