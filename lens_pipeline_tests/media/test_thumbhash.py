"""ThumbHash against the reference implementation."""

import base64

import numpy as np
import pytest

from lens_pipeline.media import thumbhash


def _pattern(width: int, height: int, has_alpha: bool) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    channels = [x * 37 + y * 11, x * 5 + y * y * 3, 255 - x * 7 + y, x * 9 + y * 13]
    rgba = np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)
    if not has_alpha:
        rgba[..., 3] = 255
    return rgba


@pytest.mark.parametrize(
    ("width", "height", "has_alpha", "expected"),
    [
        (32, 24, False, "YAcGRYQvMkR2qYhld1aGdbBX98id"),
        (24, 32, False, "4gYGNQQIM5aZaIZYeGZYZ/VFpviL"),
        (31, 31, True, "YQeCHQIXH0GHmndHRuBYlZhvOHd3h5ZwgA=="),
        (100, 7, False, "oPcFGYSmdR9nR3p4AEf3ho4="),
        (5, 90, True, "2wmCGQQHckv3hrZ60nD2Vnd3ZYdhZgc="),
        (1, 40, False, "lfopsQYIh3iIhoh3CIeFeAg="),
    ],
)
def test_the_hash_is_that_of_the_reference(
    width: int, height: int, has_alpha: bool, expected: str
) -> None:
    """A hash that browsers decode to other colours. Expected: npm thumbhash 0.1.1."""
    pattern = _pattern(width, height, has_alpha)
    hashed = thumbhash.encode(pattern)
    assert base64.b64encode(hashed).decode() == expected
    assert has_alpha or thumbhash.encode(pattern[..., :3]) == hashed


def test_a_picture_beyond_the_format_is_refused() -> None:
    """A hash computed at great cost from a full-size picture."""
    with pytest.raises(ValueError, match="101x1 does not fit"):
        thumbhash.encode(np.zeros((1, 101, 4), np.uint8))
