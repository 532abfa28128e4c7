"""Posters of the odd videos in `corpus`, from a sandbox as in production."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lens_pipeline.media.concat.probe import probe
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import PosterSpec
from lens_pipeline.media.sandbox.pool import Sandbox
from lens_pipeline_tests.media.samples import decoded

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parent / "corpus"
SPEC = PosterSpec(longest_edge=768, quality=80, effort=4, max_pixels=50_000_000)
TAKEN = "MP4, QuickTime, WebM and Matroska"
# Of the plain shot, before its flash.
ORANGE = (192, 64, 32)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(1, 120, 2048, tmp_path_factory.mktemp("sandbox")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "seconds", "colour"),
    [
        pytest.param("mjpeg-exif.mov", 1.0, ORANGE, id="side data that PyAV does not know"),
        pytest.param("matrix-ycgco.mp4", 1.0, None, id="YCgCo"),
        pytest.param("matrix-gbr-tag.mp4", 1.0, ORANGE, id="YUV that says it is RGB"),
        pytest.param("size-change-vp9.webm", 2.0, None, id="another size in the middle"),
        pytest.param("mkv-starts-at-10s.mkv", 1.0, None, id="a clock that starts at 10 s"),
        pytest.param("full-range.mp4", 1.0, ORANGE, id="full range"),
        pytest.param("zero-matrix.mp4", 1.0, None, id="a display matrix of zeros"),
        pytest.param("webm-live-no-duration.webm", 2.0, None, id="no stated length"),
        pytest.param("vp8-alt-ref.webm", 2.0, None, id="hidden frames"),
    ],
)
def test_an_odd_video_has_its_poster(
    name: str, seconds: float, colour: tuple[int, int, int] | None, sandbox: Sandbox
) -> None:
    """A video that plays, given up on or shown in wrong colours."""
    poster = sandbox.poster(CORPUS / name, SPEC)
    picture = decoded(poster.picture.webp).convert("RGB")
    assert picture.size == (160, 90)
    assert poster.duration_seconds == pytest.approx(seconds, abs=0.05)
    if colour is not None:
        assert np.abs(np.asarray(picture).mean((0, 1)) - colour).max() < 6


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("matrix-ictcp.mp4", "video has the colour matrix ictcp, which is not supported"),
        ("encrypted-cenc.mp4", "video is encrypted, and cannot be decoded without its key"),
        ("encrypted.webm", "video is encrypted, and cannot be decoded without its key"),
        (
            "container.avi",
            f"video of a kind that is not supported: AVI; taken are {TAKEN}",
        ),
    ],
)
def test_what_is_refused_is_refused_as_what_it_is(
    name: str, reason: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A plain green poster of a film with a lock; a riddle instead of a reason."""
    with pytest.raises(MediaError) as e:
        sandbox.poster(CORPUS / name, SPEC)
    assert e.value.reason == reason
    assert not e.value.over_limit
    if name != "matrix-ictcp.mp4":
        with pytest.raises(MediaError) as e:
            probe(CORPUS / name, Tools.find(), Work(tmp_path, lambda: False, lambda *_: None))
        assert e.value.reason == reason


def test_a_transparent_video_has_a_transparent_poster(sandbox: Sandbox) -> None:
    """The green beneath what browsers leave out."""
    picture = decoded(sandbox.poster(CORPUS / "vp9-alpha-hole.webm", SPEC).picture.webp)
    assert picture.size == (160, 90)
    assert picture.mode == "RGBA"
    assert np.asarray(picture)[45, 10, 3] == 0
    assert np.asarray(picture)[45, 120, 3] == 255
