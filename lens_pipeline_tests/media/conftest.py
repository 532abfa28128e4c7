"""What the tests of rendering share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import PosterSpec, PreviewSpec
from lens_pipeline.media.sandbox.pool import Sandbox
from lens_pipeline_tests.media.samples import quadrants, save


@pytest.fixture
def preview_spec() -> PreviewSpec:
    return PreviewSpec(longest_edge=200, quality=80, effort=2, max_pixels=50_000_000)


@pytest.fixture
def poster_spec() -> PosterSpec:
    return PosterSpec(longest_edge=200, quality=80, effort=2, max_pixels=50_000_000)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(quadrants(), tmp_path / "photo.jpg", "JPEG", quality=95)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(2, 20, 2048, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def tools() -> Tools:
    return Tools.find()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    directory = tmp_path / "work"
    directory.mkdir()
    return Work(directory, lambda: False, lambda stage, share: None)
