"""Posters of videos of every kind."""

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import pyvips

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.models import INLINE_MARKDOWN_LIMIT, Poster, PosterSpec
from lens_pipeline.media.posters import render_poster
from lens_pipeline_tests.media.samples import (
    Pixels,
    black,
    corner_colours,
    decoded,
    nearest_names,
    quadrants,
    rotate_track,
    scene,
    write_audio_only,
    write_video,
)


def _grey(poster: Poster) -> np.ndarray:
    return np.asarray(decoded(poster.picture.webp).convert("L")).astype(float)


def _mean(poster: Poster) -> np.ndarray:
    return np.asarray(decoded(poster.picture.webp).convert("RGB")).mean((0, 1))


def _still(seconds: float, width: int = 320, height: int = 240, rate: int = 24) -> list[Pixels]:
    return [np.asarray(quadrants(width, height))] * round(seconds * rate)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx-vp9"), ("matroska", "libx264")],
)
def test_every_container_gives_a_poster(
    container: str, codec: str, tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """A kind of video that the forced demuxer does not cover."""
    source = write_video(tmp_path / "v", _still(1), container=container, codec=codec)
    poster = render_poster(source, poster_spec)
    webp = decoded(poster.picture.webp)
    assert (webp.format, webp.size) == ("WEBP", (200, 150))
    assert nearest_names(corner_colours(webp)) == "RGBY"
    assert poster.duration_seconds == pytest.approx(1, abs=0.1)
    assert poster.poster_at_seconds <= 1
    assert len(poster.picture.inline_markdown) <= INLINE_MARKDOWN_LIMIT
    assert poster.picture.thumbhash


def test_a_poster_is_never_enlarged(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """Blurred posters that are larger than their video."""
    poster = render_poster(write_video(tmp_path / "v", _still(1, 96, 64)), poster_spec)
    assert (poster.picture.width, poster.picture.height) == (96, 64)


def test_black_first_frames_are_not_the_poster(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """A wall of black posters."""
    frames = [black()] * 20 + [scene()] * 28
    poster = render_poster(write_video(tmp_path / "v", frames), poster_spec)
    assert poster.poster_at_seconds >= 20 / 24
    assert _grey(poster).mean() > 60


def test_a_fade_in_is_waited_for(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """The first dim frame of a fade, which passes as not black."""
    frames = [(scene() * min(1.0, number / 36)).astype(np.uint8) for number in range(72)]
    poster = render_poster(write_video(tmp_path / "v", frames), poster_spec)
    assert _grey(poster).mean() > 0.6 * scene().mean()


def test_a_long_black_beginning_is_skipped_without_a_key_frame(
    tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """A seek that lands on the only key frame: the black one at the start."""
    frames = [black(96, 64)] * 100 + [scene(96, 64)] * 140
    poster = render_poster(write_video(tmp_path / "v", frames, keyframe_every=1000), poster_spec)
    assert poster.poster_at_seconds >= 100 / 24
    assert _grey(poster).std() > 8


def test_a_video_that_is_black_throughout_still_gets_a_poster(
    tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """A failure for a file that plays."""
    poster = render_poster(write_video(tmp_path / "v", [black()] * 24), poster_spec)
    assert _grey(poster).mean() < 5


@pytest.mark.parametrize("count", [1, 3])
def test_a_video_of_few_frames_gives_a_poster(
    count: int, tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """Nothing selected, since everything lies before the first candidate."""
    poster = render_poster(write_video(tmp_path / "v", [scene()] * count), poster_spec)
    assert _grey(poster).mean() == pytest.approx(scene().mean(), abs=6)


@pytest.mark.parametrize(
    ("matrix", "size", "names"),
    [
        ((0, 1, -1, 0), (150, 200), "BRYG"),
        ((-1, 0, 0, -1), (200, 150), "YBGR"),
        ((0, -1, 1, 0), (150, 200), "GYRB"),
        ((-1, 0, 0, 1), (200, 150), "GRYB"),
        ((1, 0, 0, -1), (200, 150), "BYRG"),
        ((0, 1, 1, 0), (150, 200), "RBGY"),
    ],
)
def test_a_poster_is_turned_as_players_turn_it(
    matrix: tuple[int, int, int, int],
    size: tuple[int, int],
    names: str,
    tmp_path: Path,
    poster_spec: PosterSpec,
) -> None:
    """Phone videos on their side, mirrored selfies."""
    source = rotate_track(write_video(tmp_path / "v", _still(1)), matrix)
    webp = decoded(render_poster(source, poster_spec).picture.webp)
    assert webp.size == size
    assert nearest_names(corner_colours(webp)) == names


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(2), (200, 75)), (Fraction(1, 2), (133, 200))]
)
def test_pixels_that_are_not_square_are_made_square(
    aspect: Fraction, size: tuple[int, int], tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """Squeezed faces in anamorphic video."""
    source = write_video(tmp_path / "v", _still(1), aspect=aspect)
    picture = render_poster(source, poster_spec).picture
    assert (picture.width, picture.height) == size


@pytest.mark.parametrize(("width", "height", "matrix"), [(1280, 720, 1), (640, 480, 5)])
def test_untagged_video_has_the_matrix_of_its_size(
    width: int, height: int, matrix: int, tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """Greenish skin: HD decoded with the matrix of SD."""
    pixels = np.full((height, width, 3), (200, 60, 40), np.uint8)
    pixels[: height // 2] = (40, 160, 60)
    frames = [
        av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format="yuv420p", dst_colorspace=matrix
        )
        for _ in range(10)
    ]
    for frame in frames:
        frame.colorspace = 2
    source = write_video(tmp_path / "v", frames)
    assert np.abs(_mean(render_poster(source, poster_spec)) - (120, 110, 50)).max() < 4


def test_ten_bit_video_keeps_its_levels(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """Ten bits read as eight: noise, or four times too bright."""
    source = write_video(tmp_path / "v", [scene()] * 12, pixel_format="yuv420p10le")
    assert _grey(render_poster(source, poster_spec)).mean() == pytest.approx(scene().mean(), abs=6)


@pytest.mark.parametrize(
    # The code values, of 65535, of 50 and 203 nits.
    ("transfer", "dark", "white"),
    [(16, 0.4403, 0.5807), (18, 0.497, 0.75)],
    ids=["PQ", "HLG"],
)
def test_hdr_is_tone_mapped(
    transfer: int, dark: float, white: float, tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """Washed-out grey posters of phone videos."""
    pixels = np.empty((240, 320, 3), np.uint16)
    pixels[:, :160], pixels[:, 160:] = round(dark * 65535), round(white * 65535)
    frames = [
        av.VideoFrame.from_ndarray(pixels, "rgb48le").reformat(
            format="yuv420p10le", dst_colorspace=9, dst_color_range=1
        )
        for _ in range(8)
    ]
    source = write_video(
        tmp_path / "v", frames, pixel_format="yuv420p10le", colour=(9, transfer, 9)
    )
    grey = _grey(render_poster(source, poster_spec))
    # 50 of 203 nits in sRGB; reference white a little below full, to leave room for highlights.
    assert grey[:, 20:80].mean() == pytest.approx(136, abs=5)
    assert 215 < grey[:, 120:180].mean() < 255


def test_a_wide_gamut_is_brought_into_srgb(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """Pale colours of a Mac's screen, which is Display P3."""
    pixels = np.full((120, 160, 3), (200, 60, 40), np.uint8)
    frames = [
        av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format="yuv420p", dst_colorspace=1, dst_color_range=1
        )
        for _ in range(8)
    ]
    source = write_video(tmp_path / "v", frames, colour=(1, 1, 12))
    wanted = pyvips.Image.new_from_array(pixels).icc_transform("srgb", input_profile="p3")
    assert np.abs(_mean(render_poster(source, poster_spec)) - wanted.getpoint(0, 0)).max() < 4


@pytest.mark.parametrize("codec", ["libx264", "prores_ks"])
def test_interlaced_video_has_no_combs(codec: str, tmp_path: Path, poster_spec: PosterSpec) -> None:
    """Two moments in one picture, line by line."""
    pixels = np.full((160, 160, 3), 60, np.uint8)
    pixels[0::2, 40:80] = 200
    pixels[1::2, 60:100] = 200
    is_h264 = codec == "libx264"
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
        format="yuv420p" if is_h264 else "yuv422p10le"
    )
    source = write_video(
        tmp_path / "v",
        [frame] * 8,
        codec=codec,
        container="mov",
        pixel_format=frame.format.name,
        encoder_options={"x264-params": "tff=1:qp=10"} if is_h264 else {"flags": "+ildct"},
    )
    grey = _grey(render_poster(source, poster_spec))
    assert grey.shape == (160, 160)
    assert np.abs(np.diff(grey[20:140], axis=0)).mean() < 2


def test_what_is_transparent_does_not_bleed(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """A green fringe around a figure that was cut out."""
    pixels = np.full((300, 400, 4), (0, 255, 0, 0), np.uint8)
    pixels[:, 190:] = (200, 40, 40, 255)
    frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="yuva444p10le")
    source = write_video(
        tmp_path / "v",
        [frame] * 4,
        codec="prores_ks",
        container="mov",
        pixel_format="yuva444p10le",
    )
    rgba = np.asarray(decoded(render_poster(source, poster_spec).picture.webp)).astype(int)
    assert rgba.shape == (150, 200, 4)
    assert set(rgba[75, [5, 195], 3]) == {0, 255}
    shown = rgba[rgba[..., 3] > 100]
    assert (shown[:, 0] - shown[:, 1]).min() > 100


def test_an_opaque_video_with_alpha_has_an_opaque_poster(
    tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """A plane of 255s that each poster carries."""
    frame = av.VideoFrame.from_ndarray(scene(), "rgb24").reformat(format="yuva444p10le")
    source = write_video(
        tmp_path / "v", [frame] * 4, codec="prores_ks", container="mov", pixel_format="yuva444p10le"
    )
    poster = render_poster(source, poster_spec)
    assert decoded(poster.picture.webp).mode == "RGB"
    assert _grey(poster).mean() == pytest.approx(scene().mean(), abs=6)


def test_frames_at_irregular_times_are_placed_by_their_times(
    tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """Variable frame rate taken for constant: a wrong duration and a black poster."""
    times = [Fraction(0), Fraction(2), Fraction(21, 10), Fraction(5), Fraction(6)]
    frames = [black(), scene(), scene(), scene(), scene()]
    poster = render_poster(
        write_video(tmp_path / "v", frames, times=times, encoder_options={"bf": "0"}), poster_spec
    )
    assert poster.poster_at_seconds in (pytest.approx(2), pytest.approx(2.1))
    assert poster.duration_seconds == pytest.approx(6, abs=0.2)


def test_a_file_that_starts_with_audio_is_read_on(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """'No video' for a file whose first packets are audio, or times that start before 0."""
    times = [Fraction(1) + Fraction(number, 24) for number in range(24)]
    source = write_video(tmp_path / "v", _still(1), times=times, audio_seconds=2)
    poster = render_poster(source, poster_spec)
    assert 1 <= poster.poster_at_seconds <= 2
    assert nearest_names(corner_colours(decoded(poster.picture.webp))) == "RGBY"


def test_audio_only_is_refused(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """A missing poster without an error."""
    with pytest.raises(MediaError, match="no video track, only audio"):
        render_poster(write_audio_only(tmp_path / "v.mp4"), poster_spec)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not a video but a playlist (m3u8)"),
        (b"\xef\xbb\xbf#EXTM3U\n", "not a video but a playlist (m3u8)"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video but a list of files"),
        (b"<html>404</html>", "not a video: starts with '<html>'"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00", "not a video but a picture: AVIF"),
        (b"\xff\xd8\xff\xe0", "not a video but a picture: JPEG"),
        (
            b"RIFF\x00\x00\x00\x00AVI LIST",
            "video of a kind that is not supported: AVI; taken are MP4, QuickTime, WebM",
        ),
        (b"G@\x00\x10", "video of a kind that is not supported: MPEG-TS; taken are MP4, "),
        (bytes(4) + b"G@\x00\x10", "video of a kind that is not supported: MPEG-TS"),
        (b"FLV\x01", "video of a kind that is not supported: FLV"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp42", "video is "),
        (b"\x1aE\xdf\xa3" + bytes(100), "video is "),
    ],
)
def test_what_is_no_video_says_what_it_is(
    data: bytes, reason: str, tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """A playlist named .mp4 that makes the server read its own files."""
    source = tmp_path / "clip.mp4"
    source.write_bytes(data)
    with pytest.raises(MediaError) as e:
        render_poster(source, poster_spec)
    assert str(e.value).startswith(reason)


def test_a_file_without_its_index_says_so(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """An upload that broke off, reported as a riddle."""
    source = write_video(tmp_path / "v", [scene()] * 24)
    source.write_bytes(source.read_bytes()[:-2000])
    with pytest.raises(MediaError, match=r"incomplete: it has no index \(moov\)"):
        render_poster(source, poster_spec)


def test_a_damaged_tail_does_not_matter(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """A poster refused although its frame is there."""
    frames = [scene(seed=number) for number in range(24)]
    source = write_video(tmp_path / "v", frames, first_moov=True)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    poster = render_poster(source, poster_spec)
    assert _grey(poster).std() > 8


def test_a_file_cut_off_before_its_first_frame_is_refused(
    tmp_path: Path, poster_spec: PosterSpec
) -> None:
    """An empty poster."""
    source = write_video(tmp_path / "v", [scene()] * 24, first_moov=True)
    data = source.read_bytes()
    source.write_bytes(data[: data.index(b"mdat") + 8])
    with pytest.raises(MediaError, match="no frame of the video can be decoded"):
        render_poster(source, poster_spec)


def test_random_damage_is_an_error_or_a_poster(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """An exception that no one named, which would count as ours and be retried."""
    source = write_video(tmp_path / "v", _still(1))
    data = source.read_bytes()
    # The index, at the end, is where damage leads the demuxer astray.
    index = data.index(b"moov")
    rng = np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(data)
        for position in rng.integers(index, len(data), 4):
            damaged[position] = rng.integers(256)
        source.write_bytes(damaged)
        with suppress(MediaError):
            render_poster(source, poster_spec)


def test_frames_over_the_pixel_limit_are_refused(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """A video of 16384 x 16384 pixels that takes all memory."""
    source = write_video(tmp_path / "v", [scene()])
    with pytest.raises(MediaError, match=r"320 x 240 pixels = 0\.0768 megapixels") as e:
        render_poster(source, replace(poster_spec, max_pixels=76_799))
    assert e.value.over_limit


def test_a_codec_that_is_not_supported_is_named(tmp_path: Path, poster_spec: PosterSpec) -> None:
    """Every decoder that FFmpeg has, open to strangers."""
    source = write_video(tmp_path / "v", [scene()], container="matroska", codec="msmpeg4")
    with pytest.raises(MediaError, match="coded with msmpeg4, which is not supported"):
        render_poster(source, poster_spec)
