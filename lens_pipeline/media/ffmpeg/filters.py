"""Colours in ffmpeg's filters; `color` has them for one frame."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lens_pipeline.media.errors import MediaError

# Without full_chroma_int, grey gets darker or purple by a step.
SCALER = "lanczos+accurate_rnd+full_chroma_int"
# PQ and HLG in ffprobe's words.
HDR_TRANSFERS = frozenset({"smpte2084", "arib-std-b67"})
SDR_TAGS = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
# SDR white within HDR (ITU-R BT.2408).
WHITE_NITS = 203
# Unlike hable, it keeps everything below a third of white.
_CURVE = "mobius"

# Players take untagged video for BT.709 from here on, for BT.601 below.
_HD_WIDTH, _HD_HEIGHT = 1280, 577

# Colour matrices that are in no file of cameras, by value of `AVColorSpace` and ffprobe's word.
UNSUPPORTED_MATRICES = {
    11: "smpte2085",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}
# zscale knows these, and swscale does not.
_RARE_MATRICES = frozenset({"ycgco", "bt2020c", "chroma-derived-nc"})

# Wider than BT.709, in which swscale leaves the numbers as they are.
_WIDE_PRIMARIES = frozenset({"smpte431", "smpte432", "bt2020"})

# ffmpeg-python adds the methods at run time.
Stream = Any


def is_hd(width: int, height: int) -> bool:
    return width >= _HD_WIDTH or height >= _HD_HEIGHT


def check_matrix(matrix: str) -> None:
    """Raise MediaError: it is not supported."""
    if matrix in UNSUPPORTED_MATRICES.values():
        raise MediaError(f"video has the colour matrix {matrix}, which is not supported")


def with_usual_colors(picture: Stream, matrix: str, transfer: str, primaries: str) -> Stream:
    """BT.709 for a matrix that swscale lacks, and for wide primaries, of SDR."""
    if primaries in _WIDE_PRIMARIES:
        unknown = {"colorspace": matrix, "color_trc": transfer}
        usual = {name: "bt709" for name, tag in unknown.items() if tag == "unknown"}
        picture = picture.filter("setparams", **usual) if usual else picture
        return picture.filter("zscale", m="bt709", p="bt709")
    return picture.filter("zscale", m="bt709") if matrix in _RARE_MATRICES else picture


@dataclass(frozen=True, slots=True)
class Colors:
    """Of a video, in ffprobe's words."""

    matrix: str
    transfer: str
    primaries: str
    is_hd: bool

    @property
    def is_hdr(self) -> bool:
        return self.transfer in HDR_TRANSFERS

    @classmethod
    def of(cls, video: Mapping[str, Any]) -> Self:
        """Raises MediaError: a matrix that is not supported."""
        matrix = video.get("color_space", "unknown")
        check_matrix(matrix)
        return cls(
            matrix=matrix,
            transfer=video.get("color_transfer", "unknown"),
            primaries=video.get("color_primaries", "unknown"),
            is_hd=is_hd(video["width"], video["height"]),
        )


def scaled(picture: Stream, colors: Colors, width: int, height: int) -> Stream:
    """8-bit BT.709 without combs."""
    # Files do not say that they are interlaced as reliably as frames.
    picture = picture.filter("bwdif", mode="send_frame", deint="interlaced")
    if colors.is_hdr:
        picture = picture.filter("scale", width, height, flags=SCALER)
        picture = to_sdr(picture, colors.matrix, colors.primaries)
    else:
        usual = with_usual_colors(picture, colors.matrix, colors.transfer, colors.primaries)
        tags = {"out_color_matrix": "bt709", "out_range": "tv"}
        if usual is picture and colors.matrix == "unknown":
            tags["in_color_matrix"] = "bt709" if colors.is_hd else "smpte170m"
        picture = usual.filter("scale", width, height, flags=SCALER, **tags)
    return picture.filter("format", "yuv420p")


def to_sdr(picture: Stream, matrix: str, primaries: str) -> Stream:
    """8-bit BT.709 of HDR, mapped in linear light. The tags may be unknown."""
    if matrix == "unknown":
        picture = picture.filter("setparams", colorspace="bt2020nc")
    if primaries == "unknown":
        picture = picture.filter("setparams", color_primaries="bt2020")
    return (
        picture.filter("zscale", t="linear", npl=WHITE_NITS)
        .filter("format", "gbrpf32le")
        .filter("zscale", p="bt709")
        .filter("tonemap", _CURVE, desat=0)
        .filter("zscale", t="bt709", m="bt709", r="tv")
        .filter("format", "yuv420p")
    )


@contextlib.contextmanager
def explain_missing_filter() -> Iterator[None]:
    """Raise MediaError: this ffmpeg lacks zscale."""
    try:
        yield
    except MediaError as error:
        if "No such filter: 'zscale'" in error.reason:
            raise MediaError(
                "HDR and rare colour matrices need an ffmpeg with the zscale filter"
            ) from error
        raise
