"""Previews of pictures of every kind."""

import math
import struct
import zlib
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import pyvips
from PIL import Image, PngImagePlugin

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.images import encode, render_preview
from lens_pipeline.media.models import INLINE_MARKDOWN_LIMIT, Picture, PreviewSpec
from lens_pipeline_tests.media.samples import (
    corner_colours,
    decoded,
    encoded,
    in_colour_space,
    nearest_names,
    quadrants,
    texture,
)

# EXIF tag of the orientation, and of the GPS block.
_ORIENTATION, _GPS = 0x0112, 0x8825

# What each EXIF orientation makes of the stored quadrants RGBY (red green / blue yellow).
_UPRIGHT = {
    1: "RGBY",
    2: "GRYB",
    3: "YBGR",
    4: "BYRG",
    5: "RBGY",
    6: "BRYG",
    7: "YGBR",
    8: "GYRB",
}


def _render(data: bytes, tmp_path: Path, spec: PreviewSpec) -> Picture:
    source = tmp_path / "source"
    source.write_bytes(data)
    return render_preview(source, spec)


def _mean(picture: Picture) -> np.ndarray:
    return np.asarray(decoded(picture.webp).convert("RGB")).mean((0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_every_kind_becomes_a_webp_of_the_right_size(
    kind: str, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A loader that the build lacks or that is blocked by mistake."""
    picture = _render(encoded(quadrants(), kind), tmp_path, preview_spec)
    webp = decoded(picture.webp)
    assert (webp.size, webp.mode) == ((200, 150), "RGB")
    assert (picture.width, picture.height) == webp.size
    assert nearest_names(corner_colours(webp)) == "RGBY"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_picture_is_turned_upright(
    kind: str, orientation: int, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """Phone photos that lie on their side, or whose size was computed before the turn."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    picture = _render(encoded(quadrants(), kind, exif=exif), tmp_path, preview_spec)
    webp = decoded(picture.webp)
    assert webp.size == ((200, 150) if orientation < 5 else (150, 200))
    assert nearest_names(corner_colours(webp)) == _UPRIGHT[orientation]
    assert not webp.getexif()


@pytest.mark.parametrize("size", [(199, 10), (1, 1), (16, 7)])
def test_a_small_picture_is_never_enlarged(
    size: tuple[int, int], tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """Blurred previews that are larger than their source."""
    picture = _render(encoded(quadrants(*size), "PNG"), tmp_path, preview_spec)
    assert decoded(picture.webp).size == size


@pytest.mark.parametrize(
    ("size", "expected"), [((20_000, 2), (200, 1)), ((1, 9000), (1, 200)), ((16_384, 9), (200, 1))]
)
def test_a_strip_keeps_at_least_one_pixel(
    size: tuple[int, int], expected: tuple[int, int], tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A side that rounds to 0, or one longer than WebP's 16383 pixels."""
    picture = _render(encoded(Image.new("RGB", size, "red"), "PNG"), tmp_path, preview_spec)
    assert decoded(picture.webp).size == expected


def test_wide_gamut_colours_are_converted(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Dull colours when a Display P3 photo is shown as if it were sRGB."""
    original = quadrants()
    data = in_colour_space(original, "p3")
    unconverted = np.asarray(Image.open(_written(data, tmp_path)).convert("RGB")).mean((0, 1))
    expected = np.asarray(original).mean((0, 1))
    assert np.abs(unconverted - expected).max() > 3
    assert np.abs(_mean(_render(data, tmp_path, preview_spec)) - expected).max() < 2


def test_cmyk_with_a_profile_keeps_its_colours(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Print files that come out inverted or neon."""
    original = Image.new("RGB", (300, 200), (150, 110, 90))
    picture = _render(in_colour_space(original, "cmyk"), tmp_path, preview_spec)
    assert np.abs(_mean(picture) - (150, 110, 90)).max() < 6


def test_cmyk_without_a_profile_keeps_its_hues(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Adobe's inverted CMYK taken literally: a negative."""
    picture = _render(encoded(quadrants().convert("CMYK"), "JPEG"), tmp_path, preview_spec)
    assert nearest_names(corner_colours(decoded(picture.webp))) == "RGBY"


@pytest.mark.parametrize(
    ("primaries", "transfer", "coded", "shown"),
    [
        # Display P3's (51, 102, 153).
        (12, 13, (51, 102, 153), (27, 105, 158)),
        # Reference white, 203 nits, of PQ and HLG; brighter highlights have the rest.
        (9, 16, (148, 148, 148), (229, 229, 229)),
        (9, 18, (191, 191, 191), (229, 229, 229)),
        # A tenth of the light.
        (1, 8, (26, 26, 26), (90, 90, 90)),
    ],
)
def test_a_png_with_colours_by_number_is_shown_in_them(
    primaries: int,
    transfer: int,
    coded: tuple[int, int, int],
    shown: tuple[int, int, int],
    tmp_path: Path,
    preview_spec: PreviewSpec,
) -> None:
    """HDR that comes out grey, and dull colours of a wide gamut."""
    data = encoded(Image.new("RGBA", (40, 30), (*coded, 128)), "PNG")
    chunk = b"cICP" + bytes((primaries, transfer, 0, 1))
    chunk = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    picture = _render(data[:33] + chunk + data[33:], tmp_path, preview_spec)
    pixel = np.asarray(decoded(picture.webp))[15, 20].astype(int)
    assert np.abs(pixel - (*shown, 128)).max() <= 4


def test_an_avif_with_colours_by_number_is_shown_in_them(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """As of PNG: its `nclx` says Display P3 here."""
    data = encoded(Image.new("RGB", (64, 64), (51, 102, 153)), "AVIF", quality=100)
    patched = data.replace(b"colrnclx\0\1", b"colrnclx\0\x0c")
    assert patched != data
    assert np.abs(_mean(_render(patched, tmp_path, preview_spec)) - (27, 105, 158)).max() < 4


def test_a_grey_avif_without_colours_has_the_range_of_its_pixels(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """Black that is dark grey: only the coded picture says which range it has."""
    data = encoded(Image.new("L", (64, 64), 0), "AVIF", range="limited", subsampling="4:0:0")
    picture = _render(data.replace(b"colrnclx", b"freenclx"), tmp_path, preview_spec)
    assert _mean(picture).max() <= 3


def test_an_avif_with_damage_beside_its_pixels_is_shown(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """Refused for its EXIF, which no viewer minds."""
    exif = Image.Exif()
    exif[0x010E] = "description"
    data = bytearray(encoded(quadrants(), "AVIF", exif=exif))
    start = data.rindex(b"Exif\0\0")
    data[start - 4 : start] = b"\xff" * 4
    picture = _render(bytes(data), tmp_path, preview_spec)
    assert nearest_names(corner_colours(decoded(picture.webp))) == "RGBY"


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_a_jpeg_may_lack_its_end_but_no_pixel(
    options: dict[str, int], tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """Grey blocks in the corner, of bytes that the decoder made up."""
    data = encoded(texture(160, 120), "JPEG", **options)
    assert _render(data[:-2], tmp_path, preview_spec).width == 160
    assert _render(data[:-1], tmp_path, preview_spec).width == 160
    last_restart = data.rfind(b"\xff\xd0")
    for end in (-3, -4, -8, -36, last_restart if last_restart > 0 else -100):
        with pytest.raises(MediaError, match="truncated"):
            _render(data[:end], tmp_path, preview_spec)


@pytest.mark.parametrize("rows", [7, 8, 9, 17])
def test_a_jpeg_that_ends_before_a_restart_is_truncated(
    rows: int, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A last row of blocks that the decoder made up."""
    options = {"restart_marker_rows": 1, "subsampling": 0}
    data = encoded(texture(64, 8 * rows), "JPEG", **options)
    last_restart = max(data.rfind(bytes([0xFF, marker])) for marker in range(0xD0, 0xD8))
    for end in (last_restart, last_restart + 1, last_restart + 2):
        with pytest.raises(MediaError, match="truncated"):
            _render(data[:end], tmp_path, preview_spec)


def test_a_progressive_jpeg_that_may_lack_detail_is_refused(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A blurred preview for ever: scans add detail, and any number of them is a picture."""
    data = encoded(texture(160, 120), "JPEG", progressive=True)
    with pytest.raises(MediaError, match="premature end of JPEG"):
        _render(data[: data.rindex(b"\xff\xda")], tmp_path, preview_spec)


def test_the_first_frame_of_a_gif_may_be_larger_than_its_canvas(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A frame cut off where every browser shows it."""
    data = bytearray(encoded(quadrants(60, 40), "GIF"))
    struct.pack_into("<HH", data, 6, 30, 20)
    picture = _render(bytes(data), tmp_path, preview_spec)
    assert (picture.width, picture.height) == (60, 40)
    assert nearest_names(corner_colours(decoded(picture.webp))) == "RGBY"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "RGB;16"])
def test_heic_is_shown(mode: str, tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Photos of phones refused, without their alpha, or white with 10 bits."""
    original = quadrants().convert(mode.partition(";")[0])
    if mode == "RGBA":
        original.putalpha(128)
    pixels = np.asarray(original)
    if mode == "RGB;16":
        pixels = pixels.astype(np.uint16) * 257
    file = BytesIO()
    heif = pillow_heif.from_bytes(mode, original.size, pixels.tobytes())
    heif.save(file, quality=90)
    webp = decoded(_render(file.getvalue(), tmp_path, preview_spec).webp)
    assert webp.size == (200, 150)
    assert webp.mode == ("RGBA" if mode == "RGBA" else "RGB")
    expected = np.asarray(original.convert(webp.mode)).mean((0, 1))
    assert np.abs(np.asarray(webp).mean((0, 1)) - expected).max() < 3


def test_heic_is_turned_upright_and_converted(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """A phone's photo on its side, and in dull colours."""
    with Image.open(BytesIO(in_colour_space(quadrants(), "p3"))) as wide:
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        file = BytesIO()
        pillow_heif.from_pillow(wide).save(file, quality=95, exif=exif.tobytes())
    picture = _render(file.getvalue(), tmp_path, preview_spec)
    assert (picture.width, picture.height) == (150, 200)
    assert nearest_names(corner_colours(decoded(picture.webp))) == _UPRIGHT[6]
    assert np.abs(_mean(picture) - np.asarray(quadrants()).mean((0, 1))).max() < 3


def test_a_truncated_or_too_large_heic_is_refused(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    file = BytesIO()
    pillow_heif.from_pillow(texture()).save(file)
    data = file.getvalue()
    for share in (0.01, 0.5, 0.99):
        with pytest.raises(MediaError, match="truncated or damaged") as e:
            _render(data[: int(len(data) * share)], tmp_path, preview_spec)
        assert str(tmp_path) not in str(e.value)
    with pytest.raises(MediaError, match="over the limit"):
        _render(data, tmp_path, replace(preview_spec, max_pixels=1000))


def test_a_broken_profile_is_ignored(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """A picture refused for a block of metadata."""
    data = encoded(quadrants(), "JPEG", icc_profile=b"no profile at all" * 20)
    picture = _render(data, tmp_path, preview_spec)
    assert nearest_names(corner_colours(decoded(picture.webp))) == "RGBY"


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Depth maps and scans that come out white."""
    ramp = np.tile(np.linspace(0, 65535, 200).astype(np.uint16), (100, 1))
    picture = _render(encoded(Image.fromarray(ramp), "PNG"), tmp_path, preview_spec)
    shown = np.asarray(decoded(picture.webp).convert("L"))[50].astype(float)
    assert np.abs(shown - np.linspace(0, 255, 200)).max() < 6


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette_pictures_are_rendered(
    mode: str, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """An encoder that takes only three bands."""
    picture = _render(encoded(texture().convert(mode), "PNG"), tmp_path, preview_spec)
    assert decoded(picture.webp).mode == "RGB"


def test_a_palette_colour_can_be_transparent(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Stickers on a black box."""
    palette = quadrants().quantize(4)
    transparent = palette.getpixel((0, 0))
    data = encoded(palette, "PNG", transparency=transparent)
    webp = decoded(_render(data, tmp_path, preview_spec).webp)
    assert webp.mode == "RGBA"
    alpha = np.asarray(webp)[..., 3]
    assert alpha[10, 10] == 0
    assert alpha[140, 190] == 255


def test_partly_transparent_pixels_keep_their_alpha(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """Alpha lost, or its edges darkened by the colour beneath."""
    rgba = quadrants().convert("RGBA")
    rgba.putalpha(128)
    pixels = np.asarray(decoded(_render(encoded(rgba, "PNG"), tmp_path, preview_spec).webp))
    assert pixels.shape[2] == 4
    assert abs(int(pixels[10, 10, 3]) - 128) <= 1
    assert abs(int(pixels[10, 10, 0]) - 200) < 8


def test_alpha_is_dropped_when_nothing_is_transparent(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A needless alpha channel in each preview of a generator that always writes RGBA."""
    picture = _render(encoded(quadrants().convert("RGBA"), "PNG"), tmp_path, preview_spec)
    assert decoded(picture.webp).mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_shows_its_first_frame(
    kind: str, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """All frames in one tall picture, or a file of one kind refused for moving."""
    more = [Image.new("RGB", (320, 240), "white")] * 3
    data = encoded(quadrants(), kind, save_all=True, append_images=more, duration=100)
    webp = decoded(_render(data, tmp_path, preview_spec).webp)
    assert (webp.size, getattr(webp, "n_frames", 1)) == ((200, 150), 1)
    assert nearest_names(corner_colours(webp)) == "RGBY"


def test_an_ordinary_animation_passes_the_pixel_limit_of_one_picture(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A short clip refused although only its first frame is ever decoded."""
    more = [quadrants().rotate(angle) for angle in (90, 180, 270)]
    data = encoded(quadrants(), "GIF", save_all=True, append_images=more)
    picture = _render(data, tmp_path, replace(preview_spec, max_pixels=320 * 240))
    assert (picture.width, picture.height) == (200, 150)


def test_an_animation_with_endless_frames_is_refused(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A small canvas with endless frames."""
    frames = [Image.new("RGB", (64, 64), (10 * shade, 0, 0)) for shade in range(24)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match=r"64 x 64 pixels x 24 frames") as e:
        _render(data, tmp_path, replace(preview_spec, max_pixels=64 * 64))
    assert e.value.over_limit


def test_the_second_picture_of_a_phone_photo_does_not_count(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A photo with a gain map behind it, refused as an animation of twice its pixels."""
    data = encoded(quadrants(), "MPO", save_all=True, append_images=[quadrants()])
    spec = replace(preview_spec, max_pixels=320 * 240)
    assert _render(data, tmp_path, spec).width == 200


def test_metadata_is_stripped(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """A preview that tells where its photo was taken, or the prompt behind it."""
    exif = Image.Exif()
    exif[_GPS] = {1: "N", 2: (52.0, 31.0, 12.0)}
    exif[0x010E] = "secret description"
    jpeg = _render(encoded(quadrants(), "JPEG", exif=exif), tmp_path, preview_spec)
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "secret prompt")
    text.add_itxt("workflow", "secret workflow")
    png = _render(encoded(quadrants(), "PNG", pnginfo=text), tmp_path, preview_spec)
    for picture in (jpeg, png):
        webp = decoded(picture.webp)
        assert not {"exif", "xmp", "icc_profile"} & webp.info.keys()
        assert b"secret" not in picture.webp + picture.inline


def test_a_long_compressed_text_does_not_matter(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """A picture refused for the workflow its generator stored in it."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("workflow", "node " * 600_000, zip=True)
    assert _render(encoded(quadrants(), "PNG", pnginfo=text), tmp_path, preview_spec).webp


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_random_damage_is_an_error_or_a_picture(
    kind: str, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """An exception of a parser that no one named, which would count as ours and be retried."""
    data = encoded(quadrants(), kind)
    rng = np.random.default_rng(7)
    for _ in range(40):
        damaged = bytearray(data)
        for position in rng.integers(4, len(data), 4):
            damaged[position] = rng.integers(256)
        with suppress(MediaError):
            _render(bytes(damaged), tmp_path, preview_spec)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_picture_is_refused(
    kind: str, share: float, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """A broken download that becomes a half grey preview for ever."""
    data = encoded(texture(), kind)
    with pytest.raises(MediaError, match=r"truncated|damaged|incomplete") as e:
        _render(data[: max(40, int(len(data) * share))], tmp_path, preview_spec)
    assert not e.value.over_limit


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html><body>404</body></html>", "not a picture: starts with '<html>'"),
        (b"\r\n<!DOCTYPE html>\n<p>", "not a picture: starts with '<!DOCTYPE html>'"),
        (b'{"error": "no such object"}', 'not a picture: starts with \'{"error": "no su\''),
        (b"%PDF-1.7\x00\xff", r"not a picture: starts with '%PDF-1.7\x00\xff'"),
        (
            encoded(Image.new("RGB", (1, 1)), "TIFF"),
            "picture of a kind that is not supported: TIFF; taken are JPEG, PNG, WebP, GIF, AVIF",
        ),
        (b"\0\0\0\x18ftypmp42", "not a picture but a video: MP4"),
        (b"\xff\xd8\xff\xe0", "picture is truncated or damaged"),
    ],
)
def test_what_is_no_picture_says_what_it_is(
    data: bytes, reason: str, tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """An error page stored under the name of a photo, reported as a decoder's riddle."""
    with pytest.raises(MediaError) as e:
        _render(data, tmp_path, preview_spec)
    assert str(e.value).startswith(reason)


@pytest.mark.slow
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """Gigabytes of memory for a file of 50 KB."""
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(MediaError, match=r"= 400\.0 megapixels, over the limit of 50\.0") as e:
        _render(data, tmp_path, preview_spec)
    assert e.value.over_limit


def test_a_strip_is_refused_by_its_header(tmp_path: Path, preview_spec: PreviewSpec) -> None:
    """A row of 49 million pixels within the limit of pixels, for which a decoder takes 1.5 GB."""
    data = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    struct.pack_into(">II", data, data.index(b"IHDR") + 4, 49_000_000, 1)
    struct.pack_into(">I", data, data.index(b"IHDR") + 17, zlib.crc32(data[12:29]))
    with pytest.raises(MediaError, match="49000000 x 1 pixels: a side has more than 65,535") as e:
        _render(bytes(data), tmp_path, preview_spec)
    assert e.value.over_limit


def test_the_limit_itself_is_allowed_and_one_pixel_more_is_told_exactly(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """'50.0 megapixels, over the limit of 50.0'."""
    exact = _render(encoded(Image.new("1", (50_000, 1000)), "PNG"), tmp_path, preview_spec)
    assert (exact.width, exact.height) == (200, 4)
    with pytest.raises(MediaError) as e:
        _render(encoded(Image.new("1", (50_001, 1000)), "PNG"), tmp_path, preview_spec)
    assert str(e.value) == ("50001 x 1000 pixels = 50.001 megapixels, over the limit of 50.0")


def test_the_inline_picture_fits_whatever_the_content(
    tmp_path: Path, preview_spec: PreviewSpec
) -> None:
    """An event in Dagster's log that is cut off in the middle of its picture."""
    noise = np.random.default_rng(2).integers(0, 256, (400, 400, 4), dtype=np.uint8)
    for original in (Image.fromarray(noise), texture(), Image.new("RGB", (3, 900))):
        picture = _render(encoded(original, "PNG"), tmp_path, preview_spec)
        assert len(picture.inline_markdown) <= INLINE_MARKDOWN_LIMIT
        assert picture.inline_markdown.startswith("![](data:image/webp;base64,")
        assert max(decoded(picture.inline).size) <= 32


@pytest.mark.parametrize(("width", "height"), [(768, 576), (770, 33), (500, 761), (3, 90), (20, 9)])
def test_the_inline_picture_is_what_libvips_makes_of_all_pixels(width: int, height: int) -> None:
    """Sums that overflow, an edge that is left out, another rounding."""
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = pyvips.Image.new_from_array(noise, interpretation="srgb")
    factor = math.ceil(max(width, height) / 32)
    mean = image.shrink(min(factor, width), min(factor, height))
    expected = mean.webpsave_buffer(Q=70, effort=2, keep=0)
    spec = PreviewSpec(768, 80, 0, 10**6)
    assert encode(image, spec, (width, height)).inline == expected


def _written(data: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "written"
    path.write_bytes(data)
    return path
