"""Odd pictures, as phones, browsers and generators make them, rendered where production does."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.models import PreviewSpec
from lens_pipeline.media.sandbox.pool import Sandbox
from lens_pipeline_tests.media.samples import decoded

pytestmark = pytest.mark.slow

_CORPUS = Path(__file__).parent / "corpus"
_SPEC = PreviewSpec(longest_edge=768, quality=80, effort=2, max_pixels=50_000_000)
_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class _Area:
    """Each channel of a pixel, or the mean of an area, is `lowest` to `highest`."""

    x: int | slice
    y: int | slice
    lowest: tuple[int, ...]
    highest: tuple[int, ...]


# The same picture in several files.
_USUAL = ((120, 80), _Area(_ALL, _ALL, (123, 123, 96), (129, 129, 102)))
_SHOWN = {
    "cmyk-icc-black.jpg": (
        (200, 100),
        _Area(50, 50, (0, 0, 0), (10, 10, 10)),
        _Area(150, 50, (230, 230, 230), (255, 255, 255)),
    ),
    "cmyk-no-icc-black.jpg": (
        (200, 100),
        _Area(slice(95), _ALL, (0, 0, 0), (25, 25, 25)),
        _Area(slice(105, None), _ALL, (245, 245, 245), (255, 255, 255)),
    ),
    "jpeg-no-eoi.jpg": _USUAL,
    "png-text-bad-crc.png": _USUAL,
    "png-time-bad-crc.png": _USUAL,
    "png-short-phys.png": _USUAL,
    "png-iccp-bad.png": _USUAL,
    "gif-first-frame-small.gif": (
        (40, 30),
        _Area(2, 2, (0, 0, 0, 0), (255, 255, 255, 0)),
        _Area(15, 15, (230, 0, 0, 255), (255, 25, 25, 255)),
        _Area(35, 15, (0, 0, 0, 0), (255, 255, 255, 0)),
    ),
    "avif-grey-limited-black.avif": ((64, 64), _Area(5, 5, (0, 0, 0), (3, 3, 3))),
}
_REFUSED = {
    "jpeg-cut-half.jpg": "picture is truncated",
    "png-idat-bad-crc.png": "damaged",
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(1, 120, 2048, tmp_path_factory.mktemp("sandbox")) as opened:
        yield opened


@pytest.mark.parametrize("name", _SHOWN)
def test_an_odd_picture_is_shown(name: str, sandbox: Sandbox) -> None:
    """Refused for a fault that no viewer minds, or shown in other colours than elsewhere."""
    size, *areas = _SHOWN[name]
    picture = sandbox.preview(_CORPUS / name, _SPEC)
    assert (picture.width, picture.height) == size
    pixels = np.asarray(decoded(picture.webp))
    for area in areas:
        found = pixels[area.y, area.x].reshape(-1, pixels.shape[2]).mean(0)
        assert len(found) == len(area.lowest)
        assert (area.lowest <= found).all()
        assert (found <= area.highest).all()


@pytest.mark.parametrize("name", _REFUSED)
def test_a_picture_that_lacks_pixels_is_refused(name: str, sandbox: Sandbox) -> None:
    """A half grey preview for ever."""
    with pytest.raises(MediaError, match=_REFUSED[name]) as e:
        sandbox.preview(_CORPUS / name, _SPEC)
    assert not e.value.over_limit


def test_every_odd_picture_is_tried() -> None:
    suffixes = (".jpg", ".png", ".gif", ".avif")
    pictures = {file.name for file in _CORPUS.iterdir() if file.suffix in suffixes}
    assert pictures == _SHOWN.keys() | _REFUSED.keys()
