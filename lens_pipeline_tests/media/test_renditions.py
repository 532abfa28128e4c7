"""Renditions of masters: cut to the frame, at exactly the size asked for."""

import math
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lens_pipeline.cli.demo.show import SAMPLES
from lens_pipeline.media.concat.join import join
from lens_pipeline.media.errors import Cancelled, MediaError
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import mp4_boxes
from lens_pipeline.media.models import PosterSpec, Rendition, ScaleSpec
from lens_pipeline.media.posters import render_poster
from lens_pipeline.media.renditions.render import render_scaled
from lens_pipeline_tests.media.concat.shots import source
from lens_pipeline_tests.media.samples import (
    Pixels,
    Sound,
    corner_colours,
    decoded,
    nearest_names,
    number_of,
    numbered,
    quadrants,
    rotate_track,
    silence,
    write_audio_only,
    write_video,
)

_NTSC = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 numbered frames at 24 per second with B-frames and one key frame, and sound."""
    return _write(tmp_path_factory.mktemp("master") / "master.mp4", 48, Fraction(24))


def _write(path: Path, frames: int, rate: Fraction) -> Path:
    return write_video(
        path,
        (numbered(n) for n in range(frames)),
        rate=rate,
        sound=silence(float(frames / rate)),
        first_moov=True,
    )


def _frames(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def _sound(path: Path) -> Sound:
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(decoded, axis=1).astype(np.float32)


def _grey(path: Path) -> Pixels:
    return _frames(path)[0].to_ndarray(format="gray").astype(np.uint8)


@pytest.mark.parametrize(
    ("rate", "start", "end"),
    [
        (Fraction(24), None, None),
        (Fraction(24), "0.5", "1.0"),
        # Just after a frame begins, and just after one ends.
        (Fraction(24), "0.501", "1.001"),
        (Fraction(24), "0", "0.01"),
        (Fraction(24), "1.9583", "100"),
        (Fraction(24), None, "0.25"),
        # No binary numbers: 0.1 and 0.7 are larger or smaller than the frames' times.
        (Fraction(10), "0.1", "0.7"),
        (Fraction(50), "0.58", "0.94"),
        (_NTSC, "0.4004", "1.001"),
        (_NTSC, "1.0344", None),
        (Fraction(60), "0.7", "0.75"),
    ],
)
def test_exactly_the_frames_that_begin_within_the_part_are_in_it(
    tmp_path: Path, tools: Tools, work: Work, rate: Fraction, start: str | None, end: str | None
) -> None:
    """A cut that shows one frame of the next scene, or loses the last of its own."""
    master = _write(tmp_path / "master.mp4", 48, rate)
    begins = Fraction(start or 0)
    ends = Fraction(end) if end is not None else Fraction(100)
    wanted = [n for n in range(48) if begins <= n / rate < ends]
    spec = ScaleSpec(
        160, 90, None if start is None else float(start), None if end is None else float(end)
    )
    rendition = render_scaled(master, spec, tools, work)
    frames = _frames(rendition.path)
    assert [number_of(frame) for frame in frames] == wanted
    assert rendition.frames == len(wanted)
    assert rendition.duration_seconds == pytest.approx(float(len(wanted) / rate))
    # At their times: what a player shows is exact, too.
    assert [frame.time for frame in frames] == [
        pytest.approx(float(n / rate), abs=1e-4) for n in range(len(wanted))
    ]
    assert _sound(rendition.path).shape[1] == pytest.approx(48_000 * len(wanted) / rate, abs=1024)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "open-gop=1:bframes=3"}),
        ("libx265", {"x265-params": "log-level=none:open-gop=1:bframes=3"}),
        ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        # Faster, it leaves ghosts of the frame before.
        ("libsvtav1", {"preset": "8"}),
    ],
)
def test_copied_codecs_are_cut_as_exactly(
    tmp_path: Path, tools: Tools, work: Work, codec: str, options: dict[str, str]
) -> None:
    """A cut beside a key frame that other frames refer to across."""
    frames = (numbered(n) for n in range(48))
    master = write_video(
        tmp_path / "master.mp4", frames, codec=codec, keyframe_every=10, encoder_options=options
    )
    for first in (9, 10, 11, 29, 30):
        spec = ScaleSpec(160, 90, first / 24, (first + 3) / 24)
        rendition = render_scaled(master, spec, tools, work)
        shown = [number_of(frame) for frame in _frames(rendition.path)]
        assert shown == [first, first + 1, first + 2]


def test_a_rendition_is_what_every_browser_plays(master: Path, tools: Tools, work: Work) -> None:
    """A download that a phone does not play, or only once it is whole."""
    rendition = render_scaled(master, ScaleSpec(320, 180), tools, work)
    assert rendition == Rendition(rendition.path, 320, 180, 2.0, 48)
    assert rendition.path.parent == work.directory
    boxes = list(mp4_boxes(rendition.path))
    assert boxes.index(b"moov") < boxes.index(b"mdat")
    with av.open(str(rendition.path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        context = video.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert (context.colorspace, context.color_trc, context.color_primaries) == (1, 1, 1)
        assert context.color_range == 1
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 48_000, 2)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        # Left, top, width and height of the picture of 320x180 in it.
        ((200, 200), (0, 44, 200, 112)),
        ((640, 360), (0, 0, 640, 360)),
        ((400, 100), (110, 0, 178, 100)),
        # The even numbers below.
        ((201, 181), (0, 34, 200, 112)),
        ((3, 3), (0, 0, 2, 2)),
        ((2, 90), (0, 44, 2, 2)),
    ],
)
def test_the_picture_is_fitted_with_black_bars(
    tmp_path: Path, tools: Tools, work: Work, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """People made thin; a size that is nearly the one asked for; green or grey bars."""
    white = np.full((180, 320, 3), 235, np.uint8)
    master = write_video(tmp_path / "master.mp4", [white] * 3)
    rendition = render_scaled(master, ScaleSpec(*size), tools, work)
    assert (rendition.width, rendition.height) == tuple(edge // 2 * 2 for edge in size)
    frame = _frames(rendition.path)[0]
    shown = frame.to_ndarray(format="rgb24").astype(int)
    assert shown.shape == (rendition.height, rendition.width, 3)
    left, top, width, height = box
    inside = np.zeros(shown.shape[:2], bool)
    inside[top : top + height, left : left + width] = True
    assert shown[inside].min() > 200
    # But for the ringing of the encoder right beside the picture.
    inside[max(0, top - 2) : top + height + 2, max(0, left - 2) : left + width + 2] = True
    assert shown[~inside].max(initial=0) < 12


@pytest.mark.parametrize("size", [(200, 200), (500, 120), (101, 333)])
def test_a_square_stays_a_square(
    tmp_path: Path, tools: Tools, work: Work, size: tuple[int, int]
) -> None:
    """The picture stretched within its bars."""
    pixels = np.zeros((180, 320, 3), np.uint8)
    pixels[30:150, 100:220] = 255
    rendition = render_scaled(
        write_video(tmp_path / "master.mp4", [pixels] * 3), ScaleSpec(*size), tools, work
    )
    rows, columns = np.nonzero(_grey(rendition.path) > 127)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width == pytest.approx(height, abs=2)
    assert width == pytest.approx(120 * min(size[0] / 320, size[1] / 180), abs=2)


@pytest.mark.parametrize(
    ("matrix", "names", "shape"),
    [((0, 1, -1, 0), "BRYG", (180, 320)), ((-1, 0, 0, -1), "YBGR", (320, 180))],
)
def test_a_turned_master_is_upright(
    tmp_path: Path,
    tools: Tools,
    work: Work,
    matrix: tuple[int, int, int, int],
    names: str,
    shape: tuple[int, int],
) -> None:
    """Videos of phones that lie on their side, within bars made for the other shape."""
    picture = np.asarray(quadrants(320, 180))
    master = rotate_track(write_video(tmp_path / "master.mp4", [picture] * 3), matrix)
    rendition = render_scaled(master, ScaleSpec(*shape), tools, work)
    assert nearest_names(corner_colours(_frames(rendition.path)[0].to_image())) == names


def test_wide_pixels_are_shown_wide(tmp_path: Path, tools: Tools, work: Work) -> None:
    """Anamorphic video shown thin."""
    white = np.full((180, 160, 3), 235, np.uint8)
    master = write_video(tmp_path / "master.mp4", [white] * 3, aspect=Fraction(2))
    assert _grey(render_scaled(master, ScaleSpec(320, 180), tools, work).path).min() > 200


@pytest.mark.parametrize(
    ("size", "colour"),
    [
        # Matrix, transfer, primaries: BT.709, BT.601, and none: 601 for SD and 709 for HD.
        ((320, 180), (1, 1, 1)),
        ((320, 180), (6, 6, 6)),
        ((320, 180), None),
        ((1280, 720), None),
    ],
)
def test_colours_stay_whatever_the_tags(
    tmp_path: Path,
    tools: Tools,
    work: Work,
    size: tuple[int, int],
    colour: tuple[int, int, int] | None,
) -> None:
    """Skin that turns green since the matrix of HD was taken for that of SD."""
    is_601 = colour == (6, 6, 6) or (colour is None and size[0] < 1280)
    frame = av.VideoFrame.from_ndarray(np.asarray(quadrants(*size)), "rgb24").reformat(
        format="yuv420p", dst_colorspace="ITU601" if is_601 else "ITU709"
    )
    master = write_video(tmp_path / "master.mp4", _same(frame, 3), colour=colour)
    shown = _frames(render_scaled(master, ScaleSpec(320, 180), tools, work).path)[0]
    pixels = shown.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
    for (y, x), wanted in zip(
        [(45, 80), (45, 240), (135, 80), (135, 240)],
        [(200, 30, 30), (30, 160, 40), (30, 50, 200), (210, 200, 40)],
        strict=True,
    ):
        assert pixels[y, x] == pytest.approx(wanted, abs=8)


def _same(frame: av.VideoFrame, count: int) -> Iterable[av.VideoFrame]:
    for _ in range(count):
        yield frame


def test_hdr_becomes_sdr(tmp_path: Path, tools: Tools, work: Work) -> None:
    """A washed-out grey video: PQ shown as if it were BT.709."""
    # 100 cd/m2 is 0.508 of PQ, which would be shown as 130; black stays black.
    pq = np.zeros((180, 320), np.uint16)
    pq[:, 160:] = round(64 + 0.508 * 876)
    planes = np.concatenate([pq, np.full((90, 320), 512, np.uint16)])
    frame = av.VideoFrame.from_ndarray(planes, "yuv420p10le")
    master = write_video(
        tmp_path / "master.mp4",
        _same(frame, 3),
        codec="libx265",
        pixel_format="yuv420p10le",
        colour=(9, 16, 9),
        encoder_options={"x265-params": "log-level=none"},
    )
    shown = _grey(render_scaled(master, ScaleSpec(320, 180), tools, work).path)
    assert shown[90, 40] < 20
    assert shown[90, 280] > 145


def test_an_interlaced_master_has_renditions_without_combs(
    tmp_path: Path, tools: Tools, work: Work
) -> None:
    """Two moments in one picture, line by line, squeezed into a smaller one."""
    frames = []
    for left in range(0, 24 * 40, 40):
        pixels = np.full((160, 1024, 3), 60, np.uint8)
        pixels[0::2, left : left + 40] = 200
        pixels[1::2, left + 20 : left + 60] = 200
        frames.append(pixels)
    master = write_video(
        tmp_path / "master.mp4", frames, encoder_options={"x264-params": "tff=1:qp=10"}
    )
    rendition = render_scaled(master, ScaleSpec(1024, 160, 0.25, 0.75), tools, work)
    shown = _frames(rendition.path)
    assert len(shown) == 12
    grey = shown[6].to_ndarray(format="gray").astype(float)
    assert np.abs(np.diff(grey[20:140], axis=0)).mean() < 3


@pytest.mark.parametrize("name", ["matrix-ycgco.mp4", "matrix-ictcp.mp4"])
def test_a_rare_matrix_is_converted_or_named(name: str, tools: Tools, work: Work) -> None:
    """Words of ffmpeg about a scaler, or colours of another matrix."""
    master = Path(__file__).parent / "corpus" / name
    if name == "matrix-ictcp.mp4":
        with pytest.raises(MediaError, match="has the colour matrix ictcp, which is not supported"):
            render_scaled(master, ScaleSpec(80, 46), tools, work)
        return
    rendition = render_scaled(master, ScaleSpec(80, 46), tools, work)
    mean = _frames(rendition.path)[3].to_ndarray(format="rgb24").mean((0, 1))
    poster = render_poster(master, PosterSpec(80, 100, 4, 1_000_000))
    wanted = np.asarray(decoded(poster.picture.webp)).mean((0, 1))
    assert np.abs(mean - wanted).max() < 8


@pytest.mark.parametrize(
    "tags", [(1, 1, 12), (1, 13, 12), (2, 2, 12), (9, 1, 9)], ids=["P3", "sRGB", "untagged", "2020"]
)
def test_wide_colours_look_as_in_the_poster(
    tags: tuple[int, int, int], tmp_path: Path, tools: Tools, work: Work
) -> None:
    """Skin that is pale in the film of 9:16 and ruddy in its poster."""
    pixels = np.full((180, 320, 3), (160, 110, 90), np.uint8)
    film = write_video(tmp_path / "film.mp4", [pixels] * 12, colour=tags)
    rendition = render_scaled(film, ScaleSpec(160, 90), tools, work)
    mean = _frames(rendition.path)[3].to_ndarray(format="rgb24").mean((0, 1))
    poster = render_poster(film, PosterSpec(160, 100, 4, 1_000_000))
    wanted = np.asarray(decoded(poster.picture.webp)).mean((0, 1))
    assert np.abs(mean - wanted).max() < 6


def test_a_master_without_sound_has_renditions_without_sound(
    tmp_path: Path, tools: Tools, work: Work
) -> None:
    """A silent master that cannot be scaled."""
    master = write_video(tmp_path / "master.mp4", (numbered(n) for n in range(12)))
    rendition = render_scaled(master, ScaleSpec(160, 90, 0.25), tools, work)
    with av.open(str(rendition.path)) as container:
        assert not container.streams.audio
    assert rendition.frames == 6


@pytest.mark.parametrize("start", [0.0, 0.3, 0.71])
def test_sound_stays_with_its_picture(
    tmp_path: Path, tools: Tools, work: Work, start: float
) -> None:
    """Lips that move before the voice is heard, since the sound was cut elsewhere."""
    frames = [np.full((90, 160, 3), 255 if n == 36 else 0, np.uint8) for n in range(48)]
    sound = silence(2)
    sound[:, 72_000:72_048] = 0.9
    master = write_video(tmp_path / "master.mp4", frames, sound=sound)
    rendition = render_scaled(master, ScaleSpec(160, 90, start), tools, work)
    lightness = [frame.to_ndarray(format="gray").mean() for frame in _frames(rendition.path)]
    flash = int(np.argmax(lightness)) / 24
    click = int(np.argmax(np.abs(_sound(rendition.path)[0]))) / 48_000
    assert click == pytest.approx(flash, abs=0.005)
    assert flash == pytest.approx((36 - math.ceil(start * 24)) / 24)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ScaleSpec(160, 90, 2.0), r"start \(2 s\) is beyond the end: the master is 2.0 s long"),
        (ScaleSpec(160, 90, 1e9, 2e9), "beyond the end"),
        (ScaleSpec(160, 90, 1.0, 1.0), r"the end \(1 s\) is not after the start \(1 s\)"),
        (ScaleSpec(160, 90, 1.5, 1.0), "not after the start"),
        (ScaleSpec(160, 90, None, 0.0), "not after the start"),
        (ScaleSpec(160, 90, 0.01, 0.02), "no frame begins between"),
        (ScaleSpec(160, 90, 1.99), "no frame begins between"),
        (ScaleSpec(160, 90, -0.5), "the start must not be negative: -0.5 s"),
        (ScaleSpec(160, 90, None, -1.0), "the end must not be negative"),
        (ScaleSpec(160, 90, math.nan), "the start must be a number of seconds, not nan"),
        (ScaleSpec(160, 90, 0.0, math.inf), "the end must be a number of seconds, not inf"),
        (ScaleSpec(1, 90), "width must be 2 to 8192 pixels, not 1"),
        (ScaleSpec(160, 8193), "height must be 2 to 8192 pixels, not 8193"),
        (ScaleSpec(0, 0), "width"),
        (ScaleSpec(-160, 90), "width"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(
    master: Path, tools: Tools, work: Work, spec: ScaleSpec, reason: str
) -> None:
    """'Invalid argument', after a minute of encoding."""
    with pytest.raises(MediaError, match=reason):
        render_scaled(master, spec, tools, work)
    assert list(work.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"#EXTM3U\n/etc/passwd\n", "not a video but a playlist"),
        (b"<html></html>", "not a video: starts with '<html>'"),
        (b"", "empty file"),
        (b"\x1aE\xdf\xa3" + bytes(100), "the master is not an MP4"),
        (b"\0\0\0\x18ftypisom" + bytes(100), r"no index \(moov\)"),
    ],
)
def test_what_is_no_video_is_refused(
    tmp_path: Path, tools: Tools, work: Work, content: bytes, reason: str
) -> None:
    """A playlist that is named .mp4 and reads other files."""
    (tmp_path / "master.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=reason):
        render_scaled(tmp_path / "master.mp4", ScaleSpec(160, 90), tools, work)


def test_audio_alone_is_refused(tmp_path: Path, tools: Tools, work: Work) -> None:
    """A black video."""
    sound = write_audio_only(tmp_path / "master.mp4")
    with pytest.raises(MediaError, match="no video track, only audio"):
        render_scaled(sound, ScaleSpec(160, 90), tools, work)


@pytest.mark.parametrize("rate", [Fraction(24), _NTSC, Fraction(60_000, 1001)])
def test_every_time_computed_from_a_frame_means_that_frame(
    tmp_path: Path, tools: Tools, work: Work, rate: Fraction
) -> None:
    """10 / 24 as a binary number is later than frame 10: a player that seeks there loses it."""
    master = _write(tmp_path / "master.mp4", 8, rate)
    for first in range(7):
        spec = ScaleSpec(16, 10, first / float(rate), (first + 1) / float(rate))
        rendition = render_scaled(master, spec, tools, work)
        assert rendition.path.name == f"rendition-16x10-{first}-1.mp4"


def test_a_truncated_master_has_no_rendition(
    master: Path, tmp_path: Path, tools: Tools, work: Work
) -> None:
    """A rendition that ends in the middle and is called whole."""
    data = master.read_bytes()
    (tmp_path / "master.mp4").write_bytes(data[: len(data) * 3 // 5])
    with pytest.raises(MediaError):
        render_scaled(tmp_path / "master.mp4", ScaleSpec(160, 90), tools, work)


def test_a_cancelled_rendition_stops(master: Path, tools: Tools, tmp_path: Path) -> None:
    """A cancelled download that is still made."""
    work = Work(tmp_path, lambda: True, lambda stage, share: None)
    with pytest.raises(Cancelled):
        render_scaled(master, ScaleSpec(160, 90), tools, work)


@pytest.mark.slow
def test_a_late_second_of_a_long_master_is_as_quick_as_an_early_one(
    master: Path, tools: Tools, work: Work
) -> None:
    """Ten minutes decoded to show one second."""
    long = work.directory / "long.mp4"
    # Without sound, whose length is not that of the picture.
    copy = ["-map", "0:v", "-c", "copy", f"file:{long}"]
    looped = ["-stream_loop", "899", "-f", "mov", "-i", f"file:{master}"]
    run_long([str(tools.ffmpeg), *looped, *copy], 1800, "making", work)

    def seconds_for(start: float) -> float:
        started = time.monotonic()
        rendition = render_scaled(long, ScaleSpec(160, 90, start, start + 1), tools, work)
        assert [number_of(frame) for frame in _frames(rendition.path)] == list(range(24, 48))
        return time.monotonic() - started

    early = min(seconds_for(1) for _ in range(3))
    late = min(seconds_for(1701) for _ in range(3))
    assert late < 2 * early + 0.2


@pytest.mark.slow
def test_shots_with_other_colour_tags_stay_one_film(tools: Tools, work: Work) -> None:
    """Filters that began anew at the second shot, and sound with times from 0 again."""
    files = [
        sample.path for sample in SAMPLES if sample.file in ("bunny.mp4", "bunny-portrait.mp4")
    ]
    master = join([source(path) for path in files], tools, work, None, compatibility="web")
    assert master.method == "partial"
    rendition = render_scaled(master.path, ScaleSpec(160, 90, None, None), tools, work)
    assert rendition.frames == master.frames
