"""Files that say themselves that a model made them."""

from io import BytesIO
from pathlib import Path

import av
import pytest
from PIL import Image

from lens_pipeline.media.credentials import sign_mp4
from lens_pipeline.media.errors import DiskFull
from lens_pipeline.media.provenance import mark_mp4, marked_webp
from lens_pipeline_tests.support import sources

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def _webp(mode: str) -> bytes:
    webp = BytesIO()
    color = (192, 64, 32, 96)[: len(mode)]
    Image.new(mode, (301, 200), color).save(webp, "WEBP", quality=80)
    return webp.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_marked_picture_is_the_same_picture(mode: str) -> None:
    """A mark that breaks the picture, its size or its transparency."""
    plain = _webp(mode)

    marked = marked_webp(plain, "trainedAlgorithmicMedia")

    with Image.open(BytesIO(plain)) as before, Image.open(BytesIO(marked)) as after:
        assert TRAINED in after.info["xmp"].decode()
        assert (after.size, after.mode) == ((301, 200), mode)
        assert after.tobytes() == before.tobytes()
    assert len(marked) - len(plain) < 600


def test_nothing_is_said_where_nothing_is_known() -> None:
    webp = _webp("RGB")
    assert marked_webp(webp, None) == webp


def test_a_marked_video_is_the_same_video(tmp_path: Path) -> None:
    """A mark that players or the next rendition stumble on."""
    plain, marked = tmp_path / "plain.mp4", tmp_path / "marked.mp4"
    for file in (plain, marked):
        file.write_bytes(sources.mp4())

    mark_mp4(marked, "trainedAlgorithmicMedia")

    with av.open(str(marked), options={"export_xmp": "1"}) as video:
        assert TRAINED in video.metadata["xmp"]
    assert _packets(marked) == _packets(plain)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    """A film that is given up on since the disk was full for a moment."""
    with pytest.raises(DiskFull):
        mark_mp4(Path("/dev/full"), "trainedAlgorithmicMedia")
    file = tmp_path / "a.mp4"
    file.write_bytes(sources.mp4())
    (tmp_path / "a.mp4.moved").symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        sign_mp4(file, 1000, lambda _: b"")


def _packets(file: Path) -> list[bytes]:
    with av.open(str(file)) as video:
        return [bytes(packet) for packet in video.demux() if packet.size]
