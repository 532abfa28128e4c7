"""Colours of video in filters of ffmpeg: HDR to SDR, which `tonemap` does for one frame."""

import contextlib
from collections.abc import Iterator
from typing import Any

from lens_pipeline.media.errors import MediaError

# For the scale filter. Without full_chroma_int, a change of the matrix makes grey darker or purple
# by a step.
SCALER = "lanczos+accurate_rnd+full_chroma_int"
# PQ and HLG (ITU-R BT.2100), as ffprobe calls them.
HDR_TRANSFERS = frozenset({"smpte2084", "arib-std-b67"})
# Nits of SDR white within HDR (ITU-R BT.2408), and the curve for what is brighter. Unlike hable,
# it leaves everything below a third of white as it is.
WHITE_NITS = 203
_CURVE = "mobius"

# From this size on, players take untagged video for BT.709, below it for BT.601.
_HD_WIDTH, _HD_HEIGHT = 1280, 577

# ffmpeg-python gives its streams their methods at run time.
_Stream = Any


def is_hd(width: int, height: int) -> bool:
    """Whether untagged video of this size is shown as BT.709 rather than BT.601."""
    return width >= _HD_WIDTH or height >= _HD_HEIGHT


def to_sdr(picture: _Stream, matrix: str, primaries: str) -> _Stream:
    """8-bit BT.709 of an HDR picture: linear light in the primaries of BT.709, then bent.

    `matrix` and `primaries` are its tags, which may be unknown.
    """
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
def told_if_impossible() -> Iterator[None]:
    """Say what an ffmpeg lacks that cannot run the filters of `to_sdr`."""
    try:
        yield
    except MediaError as error:
        if "No such filter: 'zscale'" in error.reason:
            raise MediaError("HDR video needs an ffmpeg with the zscale filter") from error
        raise
