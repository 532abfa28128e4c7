"""Files that promise more samples than any video has."""

import struct
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg import ffprobe
from lens_pipeline.media.ffmpeg.sample_tables import check_samples
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import ends_in_fragment, mp4_boxes
from lens_pipeline.media.models import PosterSpec
from lens_pipeline.media.posters import render_poster
from lens_pipeline_tests.media.samples import scene, write_video

Reader = Callable[[Path], object]


def _probe(video: Path) -> object:
    return ffprobe.describe(video, "mov", ("-show_packets",), Tools.find(), 20)


def _render(video: Path) -> object:
    spec = PosterSpec(longest_edge=64, quality=80, effort=0, max_pixels=50_000_000)
    return render_poster(video, spec)


def _promising(video: Path, samples: int) -> Path:
    """All samples of the first track have one size and one duration."""
    data = bytearray(video.read_bytes())
    for table, offset, values in (
        (b"stsz", 8, (1, samples)),
        (b"stts", 8, (1, samples, 1)),
        (b"stsc", 8, (1, 1, samples, 1)),
    ):
        struct.pack_into(f">{len(values)}I", data, data.index(table) + offset, *values)
    video.write_bytes(data)
    return video


@pytest.mark.parametrize("read", [_probe, _render])
@pytest.mark.parametrize("fragmented", [False, True], ids=["index", "fragments"])
def test_forty_million_samples_are_refused_before_a_demuxer_sees_them(
    tmp_path: Path, read: Reader, fragmented: bool
) -> None:
    """Kilobytes that take gigabytes and minutes, in ffprobe or in this process."""
    video = write_video(tmp_path / "v.mp4", [scene()] * 4, fragmented=fragmented)
    if fragmented:
        data = bytearray(video.read_bytes())
        struct.pack_into(">I", data, data.index(b"trun") + 8, 40_000_000)
        video.write_bytes(data)
    else:
        _promising(video, 40_000_000)
    with pytest.raises(MediaError, match="more than 2,000,000 samples") as e:
        read(video)
    assert e.value.over_limit


def test_an_hour_of_uncompressed_sound_is_no_promise(tmp_path: Path) -> None:
    """A film of a camera refused for its sound, each sample of which has an entry of its own."""
    video = _promising(write_video(tmp_path / "v.mp4", [scene()] * 4), 3600 * 48_000)
    with pytest.raises(MediaError, match="samples"):
        check_samples(video)
    video.write_bytes(video.read_bytes().replace(b"vide", b"soun"))
    check_samples(video)


def test_a_minute_of_uncompressed_sound_in_quicktime(tmp_path: Path) -> None:
    """Every longer film of a camera or editor refused: its tracks have a second handler."""
    video = tmp_path / "v.mov"
    picture = ["-f", "lavfi", "-i", "color=s=32x32:r=1"]
    sound = ["-f", "lavfi", "-i", "anullsrc=r=48000:cl=mono"]
    codecs = ["-t", "60", "-c:v", "mjpeg", "-c:a", "pcm_s16le"]
    ffmpeg = [Tools.find().ffmpeg, "-v", "error"]
    subprocess.run([*ffmpeg, *picture, *sound, *codecs, video], check=True)
    check_samples(video)
    data = video.read_bytes()
    assert data.count(b"hdlr") > 2 and struct.pack(">I", 60 * 48_000) in data
    # A picture's track is none of sound, whatever other handlers it has.
    video.write_bytes(data.replace(b"soun", b"vide"))
    with pytest.raises(MediaError, match="samples"):
        check_samples(video)


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _sizes(samples: int) -> bytes:
    return _box(b"stsz", struct.pack(">III", 0, 1, samples))


_PROMISE = _sizes(40_000_000)
_HANDLER = _box(b"hdlr", bytes(8), b"mdir", bytes(12))
_TIMES = _box(b"stts", struct.pack(">IIII", 0, 1, 40_000_000, 1))


@pytest.mark.parametrize(
    "track",
    [
        *(_box(name, _PROMISE) for name in (b"dinf", b"edts", b"sinf", b"tref", b"udta", b"wave")),
        _box(b"meta", bytes(4), _HANDLER, _PROMISE),
        _box(b"meta", _HANDLER, _PROMISE),
        _box(b"udta", _box(b"name", b"a film"), b"\0\0\0\2junk") + _PROMISE,
        _box(b"stsd", bytes(8), _box(b"jpeg", bytes(78), _box(b"wave", _PROMISE))),
        _PROMISE + _sizes(1),
        _TIMES + _PROMISE + _box(b"hdlr", bytes(8), b"soun") + _box(b"hdlr", bytes(8), b"vide"),
    ],
    ids=[
        *("dinf", "edts", "sinf", "tref", "udta", "wave", "meta", "meta of QuickTime"),
        *("after damage", "description", "two tables", "two handlers"),
    ],
)
def test_a_promise_is_seen_wherever_ffmpeg_looks(tmp_path: Path, track: bytes) -> None:
    """A table in a box that seems to hold none, or behind another one."""
    video = tmp_path / "v.mov"
    index = _box(b"mvhd", bytes(100)), _box(b"trak", track)
    for name in (b"moov", b"hoov"):
        video.write_bytes(_box(b"wide") + _box(name, *index))
        with pytest.raises(MediaError, match="samples") as e:
            check_samples(video)
        assert e.value.over_limit


def test_text_in_user_data_is_no_box(tmp_path: Path) -> None:
    """A good film refused for its title."""
    video = tmp_path / "v.mov"
    contents = (b"a film", bytes(4), b"\0\0\0\2stsz" + _PROMISE, b"\xff" * 40)
    texts = (_box(b"udta", _box(b"name", b"a film"), content) for content in contents)
    video.write_bytes(_box(b"moov", _box(b"trak", *texts, _sizes(5))))
    check_samples(video)


def test_a_compressed_index_is_refused(tmp_path: Path) -> None:
    """A count that nobody sees until the demuxer has unpacked it."""
    video = tmp_path / "v.mov"
    video.write_bytes(struct.pack(">I4sI4s", 16, b"moov", 8, b"cmov"))
    with pytest.raises(MediaError, match="compressed index"):
        check_samples(video)


def test_a_description_within_descriptions_is_read_once(tmp_path: Path) -> None:
    """A quarter of a megabyte that keeps a process outside of the sandbox busy for minutes."""
    video = tmp_path / "v.mov"
    size = 1 << 18
    headers = (
        struct.pack(">I4sI4s", size - start, b"stsd", 8, b"mvhd") for start in range(0, size, 16)
    )
    video.write_bytes(b"".join(headers))
    started = time.process_time()
    check_samples(video)
    assert time.process_time() - started < 1


def test_the_search_for_a_cut_fragment_ends_where_boxes_are_counted(tmp_path: Path) -> None:
    """Megabytes of boxes that nothing has counted, all in memory."""
    video = tmp_path / "v.mov"
    damaged = struct.pack(">I4sQ", 1, b"free", 12)
    video.write_bytes(_box(b"moof") + damaged + _box(b"free") * 1000)
    check_samples(video)
    assert list(mp4_boxes(video)) == [b"moof", b"free"]
    assert not ends_in_fragment(video)
    video.write_bytes(_box(b"moof") + _box(b"free") * 50_000 + struct.pack(">I4s", 99, b"mdat"))
    tracemalloc.start()
    try:
        assert ends_in_fragment(video)
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


def test_boxes_within_boxes_are_refused(tmp_path: Path) -> None:
    """A file that keeps a worker busy for minutes before any decoder sees it."""
    video = tmp_path / "v.mov"
    size = 8 * 1_000_002
    boxes = (struct.pack(">I4s", size - start, b"moov") for start in range(0, size, 8))
    video.write_bytes(b"".join(boxes))
    with pytest.raises(MediaError, match="boxes"):
        check_samples(video)
