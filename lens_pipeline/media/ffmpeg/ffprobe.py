"""Runs ffprobe and reads its answers; callers judge the file."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.run import file_input, run
from lens_pipeline.media.ffmpeg.sample_tables import ENCRYPTED, check_samples
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import header_error

logger = logging.getLogger(__name__)


def describe(
    file: Path,
    demuxer: str,
    options: Sequence[str],
    tools: Tools,
    timeout_seconds: float,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """The `streams`, and what `options` ask for.

    Raises what `run` and `check_samples` raise; MediaError: no readable header.
    """
    if demuxer == "mov":
        check_samples(file)
    command = [
        *(str(tools.ffprobe), "-v", "error", "-show_streams", *options),
        *("-of", "json=compact=1", *file_input(file.resolve(), demuxer)),
    ]
    try:
        return json.loads(run(command, timeout_seconds, cancelled))
    except MediaError as error:
        if error.over_limit:
            raise
        # Users see the shorter one.
        logger.info("%s: %s", file.name, error.reason)
        raise header_error(file, demuxer) from error


def first_video(streams: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Not a cover picture. Raises MediaError: none, or encrypted."""
    for stream in streams:
        if stream.get("codec_type") == "video" and not stream["disposition"]["attached_pic"]:
            if "enc_key_id" in stream.get("tags", {}):
                raise MediaError(ENCRYPTED)
            return stream
    has_audio = any(stream.get("codec_type") == "audio" for stream in streams)
    raise MediaError("no video track" + (", only audio" if has_audio else ""))


def fraction(text: str) -> Fraction | None:
    """30000/1001 or 16:9; None for 0/0 and 0:1."""
    numerator, denominator = (int(part) for part in text.replace(":", "/").split("/"))
    return Fraction(numerator, denominator) if numerator > 0 and denominator > 0 else None


def sample_aspect(stream: Mapping[str, Any]) -> Fraction:
    """Width of a pixel divided by its height."""
    return fraction(stream.get("sample_aspect_ratio", "1:1")) or Fraction(1)


def rotation(stream: Mapping[str, Any]) -> int:
    """Degrees counter-clockwise, by the display matrix."""
    side_data = stream.get("side_data_list", [])
    return next((data["rotation"] for data in side_data if "rotation" in data), 0)


def display_size(
    width: int, height: int, aspect: Fraction, degrees: int = 0
) -> tuple[Fraction, Fraction]:
    """As shown, with square pixels; widened rather than losing lines."""
    shown_width, shown_height = width * max(aspect, Fraction(1)), height / min(aspect, Fraction(1))
    return (shown_height, shown_width) if degrees % 180 else (shown_width, shown_height)
