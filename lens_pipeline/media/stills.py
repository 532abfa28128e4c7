"""One frame of a video as a picture: without combs, in sRGB, with square pixels, upright."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pyvips
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from lens_pipeline.media import color, images
from lens_pipeline.media.ffmpeg.ffprobe import display_size
from lens_pipeline.media.ffmpeg.filters import UNSUPPORTED_MATRICES, check_matrix, is_hd
from lens_pipeline.media.frames import has_alpha
from lens_pipeline.media.models import PosterSpec

# By values of `AVColorSpace`. 10 has constant luminance: saturated colours differ a little.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_YCGCO, _BY_PRIMARIES = 8, 12
_SCALER = (
    Interpolation.LANCZOS
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def _unnamed(value: object) -> Type:
    del value
    return Type.VIDEO_HINT


# PyAV raises ValueError for side data of a kind that it has no name for, whatever is asked for.
Type._missing_ = _unnamed


def render(frame: av.VideoFrame, aspect: Fraction, spec: PosterSpec) -> pyvips.Image:
    """8-bit sRGB, with alpha if some of it shows. `aspect`: a pixel's width by its height.

    Raises MediaError: over the pixel limit, or a colour matrix that is not supported.
    """
    images.check_pixels(frame.width, frame.height, 1, spec.max_pixels)
    whole = _progressive(frame)
    picture = _srgb(whole, *_fit(shown_size(frame, aspect), spec.largest_edge))
    return _upright(images.without_opaque_alpha(picture), frame)


def shown_size(frame: av.VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """With square pixels, not yet upright."""
    width, height = display_size(frame.width, frame.height, aspect)
    return round(width), round(height)


def _fit(size: tuple[int, int], longest_edge: int) -> tuple[int, int]:
    """Not enlarged."""
    scale = min(Fraction(1), Fraction(longest_edge, max(size)))
    width, height = (max(1, round(edge * scale)) for edge in size)
    return width, height


def _progressive(frame: av.VideoFrame) -> av.VideoFrame:
    """Every other line anew from its neighbours: a still has no use for the second field."""
    if not frame.interlaced_frame:
        return frame
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
    )
    graph.link_nodes(source, graph.add("estdif", mode="frame"), graph.add("buffersink"))
    graph.configure()
    graph.vpush(frame)
    graph.vpush(None)
    return graph.vpull()


def _srgb(frame: av.VideoFrame, width: int, height: int) -> pyvips.Image:
    is_ycgco = frame.colorspace == _YCGCO
    is_mapped = not color.is_srgb(frame.color_primaries, frame.color_trc)
    is_deep = is_mapped or is_ycgco
    is_transparent = has_alpha(frame)
    kind = ("rgba", "rgba64le") if is_transparent else ("rgb24", "rgb48le")
    matrix = _matrix(frame)
    pixels: NDArray[Any] = frame.reformat(
        # swscale would mix the colours of transparent pixels into edges.
        width=frame.width if is_transparent else width,
        height=frame.height if is_transparent else height,
        format="yuv444p16le" if is_ycgco else kind[is_deep],
        interpolation=_SCALER,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()
    if is_transparent:
        pixels = _resized(pixels, width, height)
    if is_ycgco:
        pixels = color.ycgco_to_rgb(pixels)
    if is_mapped:
        rgb = color.to_srgb(pixels[..., :3], frame.color_trc, frame.color_primaries)
        pixels = np.concatenate([rgb, _shallow(pixels[..., 3:])], axis=2)
    elif is_deep:
        pixels = _shallow(pixels)
    return pyvips.Image.new_from_array(np.ascontiguousarray(pixels), interpretation="srgb")


def _resized(pixels: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """With alpha."""
    space = "rgb16" if pixels.dtype == np.uint16 else "srgb"
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels), interpretation=space)
    small = image.premultiply().resize(width / image.width, vscale=height / image.height)
    return small.unpremultiply().rint().cast(image.format).numpy()


def _shallow(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of 16."""
    return (pixels >> 8).astype(np.uint8)


def _matrix(frame: av.VideoFrame) -> Colorspace:
    """Raises MediaError: none of swscale's."""
    check_matrix(UNSUPPORTED_MATRICES.get(frame.colorspace, ""))
    tag = frame.color_primaries if frame.colorspace == _BY_PRIMARIES else frame.colorspace
    if tag in _MATRICES:
        return _MATRICES[tag]
    if frame.color_trc in (color.PQ, color.HLG):
        return Colorspace.BT2020
    # FFmpeg takes BT.601 for HD, too.
    return Colorspace.ITU709 if is_hd(frame.width, frame.height) else Colorspace.ITU601


def _upright(picture: pyvips.Image, frame: av.VideoFrame) -> pyvips.Image:
    """Apply quarter turns and mirroring of cameras."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return picture
    matrix = np.frombuffer(bytes(side_data), dtype=np.int32)
    a, b, _, c, d = (int(number) for number in matrix[:5])
    if a * d - b * c < 0:
        picture = picture.fliphor()
        a, b = -a, -b
    if abs(b) > abs(a):
        return picture.rot("d90" if b > 0 else "d270")
    return picture.rot("d180") if a < 0 else picture
