"""Photos to previews with libvips; encodes all pictures. Runs in the sandbox."""

import base64
import math
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin

from lens_pipeline.media import thumbhash
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.formats import quote_head, read_head
from lens_pipeline.media.models import (
    INLINE_MARKDOWN_LIMIT,
    Picture,
    PictureSize,
    PreviewSpec,
    inline_markdown,
)

_Pixels = NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
_LOADERS = ("Jpeg", "Png", "Webp", "Nsgif", "Heif")
# First bytes; AVIF's are at offset 4.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8")

# Pillow raises these for damaged headers.
_HEADER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
    RuntimeError,
    struct.error,
)

# Pixels: ThumbHash's 7 frequencies need no more.
_MINI_EDGE = 32
# Longest edge and WebP quality, until it is small enough.
_INLINE_STEPS = ((32, 70), (32, 40), (24, 40), (16, 40), (8, 20))
_INLINE_EFFORT = 2
# Of a plug-in unknown to it, Pillow would import all.
_WEBP = WebPImagePlugin.WebPImageFile.format
# Rows of 8 bits whose sum fits.
_MOST_IN_16_BITS = 257
# Pixels: decoders hold whole rows, and JPEG counts no further.
_LONGEST_SIDE = 65_535
# All frames may have this many times the pixels of one: by default 20 s of a megapixel at 50 Hz.
_ANIMATION_FACTOR = 20

# The spec's limit replaces Pillow's; only headers are read.
Image.MAX_IMAGE_PIXELS = None
# Generators store workflows in compressed text; 64 MiB stay the limit for all.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# A cache is of no use: no operation is repeated.
pyvips.cache_set_max(0)
pyvips.operation_block_set("VipsForeignLoad", True)
for _loader in _LOADERS:
    pyvips.operation_block_set(f"VipsForeignLoad{_loader}", False)


@dataclass(frozen=True, slots=True)
class _Header:
    """`kind`: Pillow's name of the format, or AVIF sequence."""

    kind: str
    width: int
    height: int


def render_preview(source: Path, spec: PreviewSpec) -> Picture:
    """Render a JPEG, PNG, WebP, GIF or AVIF file; of an animation, the first frame.

    Raises MediaError: another kind, damaged, or over the pixel limit.
    """
    try:
        header = _check_header(source, spec.max_pixels)
        image = _shrink(source, header, spec.largest_edge)
        return encode(image, spec, (header.width, header.height))
    except pyvips.Error as error:
        raise _media_error(error) from error


def _check_header(source: Path, max_pixels: int) -> _Header:
    """Raises MediaError: no picture, or over `max_pixels`. pyvips.Error: damaged."""
    head = read_head(source)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        # Pillow would allocate the whole canvas.
        webp = pyvips.Image.webpload_source(_stream(source))
        header, frames = _Header("WEBP", webp.width, webp.height), webp.get_n_pages()
    else:
        header, frames = _read_header(source, head)
    check_pixels(header.width, header.height, frames, max_pixels)
    return header


def check_pixels(width: int, height: int, frames: int, max_pixels: int) -> None:
    """Raise MediaError: no pixel, or too many on one side, in one frame or in all."""
    pixels = width * height
    if pixels * frames <= 0:
        raise MediaError(f"picture has no pixels ({width} x {height})")
    if max(width, height) > _LONGEST_SIDE:
        raise MediaError(
            f"{width} x {height} pixels: a side has more than {_LONGEST_SIDE:,}", over_limit=True
        )
    for count, limit, suffix in (
        (pixels, max_pixels, ""),
        (pixels * frames, max_pixels * _ANIMATION_FACTOR, f" x {frames} frames"),
    ):
        if count > limit:
            raise MediaError(
                f"{width} x {height} pixels{suffix} = {_megapixels(count)} megapixels,"
                f" over the limit of {_megapixels(limit)}",
                over_limit=True,
            )


def encode(image: pyvips.Image, spec: PreviewSpec, source: tuple[int, int]) -> Picture:
    """Encode 8-bit sRGB, also with alpha, in all sizes, and placeholders. Raises pyvips.Error.

    `source`: the pixels of what `image` shows, perhaps before it was turned upright.
    """
    is_turned = (source[0] < source[1]) != (image.width < image.height)
    pixels = _pixels(image)
    main = _size(pixels, spec.longest_edge, spec)
    mini = _mini(pixels)
    return Picture(
        webp=main.webp,
        width=main.width,
        height=main.height,
        thumbhash=base64.b64encode(thumbhash.encode(mini)).decode("ascii"),
        inline=_inline(mini),
        source_width=source[1] if is_turned else source[0],
        source_height=source[0] if is_turned else source[1],
        sizes=tuple(_size(pixels, edge, spec) for edge in spec.sizes),
    )


def _size(pixels: _Pixels, edge: int, spec: PreviewSpec) -> PictureSize:
    fitted = _thumbnail(pixels, edge) if max(pixels.shape[:2]) > edge else pixels
    webp = _image(fitted).webpsave_buffer(Q=spec.quality, effort=spec.effort, keep=0)
    return PictureSize(edge, fitted.shape[1], fitted.shape[0], webp)


def _read_header(source: Path, head: bytes) -> tuple[_Header, int]:
    try:
        with Image.open(source, formats=_FORMATS) as opened:
            kind = "AVIF sequence" if head[4:12] == b"ftypavis" else str(opened.format)
            return _Header(kind, *opened.size), _frame_count(opened)
    except UnidentifiedImageError:
        raise MediaError(_unidentified(head)) from None
    except _HEADER_ERRORS as error:
        raise MediaError(f"picture has a damaged header: {error}") from error


def _frame_count(header: Image.Image) -> int:
    # Of an MPO (depth or gain map), others are never decoded.
    return 1 if header.format == "MPO" else getattr(header, "n_frames", 1)


def _unidentified(head: bytes) -> str:
    if head.startswith(_SIGNATURES) or head[4:12] == b"ftypavif":
        return "picture is truncated: its header is incomplete"
    return f"not a picture: starts with {quote_head(head)}"


def _megapixels(pixels: int) -> str:
    """All digits: numbers just over the limit must not look like it."""
    whole, fraction = divmod(pixels, 1_000_000)
    return f"{whole}.{f'{fraction:06d}'.rstrip('0') or '0'}"


def _shrink(source: Path, header: _Header, longest_edge: int) -> pyvips.Image:
    """Upright sRGB, never enlarged."""
    stream = _stream(source)
    if header.kind in ("JPEG", "MPO"):
        # Closer than `thumbnail_source`: 6 % less time, SSIM differs by 0.001.
        reduction = max(header.width, header.height) / longest_edge
        factor = next((factor for factor in (8, 4, 2) if reduction >= factor), 1)
        image = pyvips.Image.jpegload_source(
            stream, shrink=factor, fail_on="error", access="sequential"
        ).thumbnail_image(longest_edge, height=longest_edge, size="down")
    elif header.kind == "AVIF sequence":
        # libvips finds no loader for it.
        image = pyvips.Image.heifload_source(stream, fail_on="error").thumbnail_image(
            longest_edge, height=longest_edge, size="down"
        )
    else:
        image = pyvips.Image.thumbnail_source(
            stream,
            longest_edge,
            height=longest_edge,
            size="down",
            # libvips 8.18 ignores the argument `fail_on` here and renders half a picture.
            option_string="[fail_on=error]",
        )
    return _without_opaque_alpha(_to_srgb(image))


def _stream(source: Path) -> pyvips.Source:
    # libvips reads options from names that end in brackets.
    return pyvips.Source.new_from_file(str(source))


def _to_srgb(image: pyvips.Image) -> pyvips.Image:
    if image.get_typeof("icc-profile-data"):
        try:
            return image.icc_transform(
                "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8
            )
        except pyvips.Error:
            image = image.copy()
            image.remove("icc-profile-data")
    if image.interpretation == "srgb" and image.format == "uchar":
        return image
    return image.colourspace("srgb").cast("uchar")


def _without_opaque_alpha(image: pyvips.Image) -> pyvips.Image:
    if not image.hasalpha():
        return image
    image = image.copy_memory()
    if image[image.bands - 1].min() == 255:
        return image.extract_band(0, n=image.bands - 1)
    return image


def _pixels(image: pyvips.Image) -> _Pixels:
    """Height, width, bands."""
    shape = image.height, image.width, image.bands
    return np.frombuffer(image.write_to_memory(), np.uint8).reshape(shape)


def _mini(pixels: _Pixels) -> _Pixels:
    """At most `_MINI_EDGE` pixels a side."""
    height, width, bands = pixels.shape
    if bands == 4:
        return _thumbnail(pixels, _MINI_EDGE)
    # Looks the same in a tenth of the time.
    factor = math.ceil(max(height, width) / _MINI_EDGE)
    rows = _mean_rows(pixels, min(factor, height))
    columns = _mean_rows(np.ascontiguousarray(rows.swapaxes(0, 1)), min(factor, width))
    return np.ascontiguousarray(columns.swapaxes(0, 1))


def _mean_rows(pixels: _Pixels, factor: int) -> _Pixels:
    """Rounds as libvips' `shrink`, which takes longer."""
    count = max(1, math.floor(len(pixels) / factor + 0.5))
    missing = max(0, count * factor - len(pixels))
    if missing:
        pixels = np.pad(pixels, ((0, missing), (0, 0), (0, 0)), mode="edge")
    groups = pixels[: count * factor].reshape(count, factor, -1)
    # Quicker than with 32 bits, which few pictures need.
    sums = groups.sum(axis=1, dtype=np.uint16 if factor <= _MOST_IN_16_BITS else np.uint32)
    sums = sums.reshape(count, *pixels.shape[1:])
    multiplier = np.uint32((1 << 24) // factor)
    return ((sums + np.uint32(factor // 2)) * multiplier >> 24).astype(np.uint8)


def _thumbnail(pixels: _Pixels, edge: int) -> _Pixels:
    return _pixels(_image(pixels).thumbnail_image(edge, height=edge, size="down"))


def _image(pixels: _Pixels) -> pyvips.Image:
    image = pyvips.Image.new_from_array(pixels)
    # libvips takes three bands for sRGB anyway.
    return image if image.bands == 3 else image.copy(interpretation="srgb")


def _inline(mini: _Pixels) -> bytes:
    for edge, quality in _INLINE_STEPS:
        smaller = _thumbnail(mini, edge) if edge < _MINI_EDGE else mini
        webp = BytesIO()
        # The same bytes as from libvips, which takes longer to begin.
        Image.fromarray(smaller).save(webp, _WEBP, quality=quality, method=_INLINE_EFFORT)
        if len(inline_markdown(webp.getvalue())) <= INLINE_MARKDOWN_LIMIT:
            return webp.getvalue()
    raise AssertionError("64 pixels of WebP take more than 1.5 KB")


def _media_error(error: pyvips.Error) -> MediaError:
    # The last line is the newest.
    detail = error.detail.strip().rpartition("\n")[2] if error.detail else error.message
    if "out of memory" in error.detail:
        return MediaError("picture needs more memory than allowed", over_limit=True)
    return MediaError(f"picture is truncated or damaged: {detail}")
