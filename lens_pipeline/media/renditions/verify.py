"""Whether renditions are what they were to be."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import mp4_boxes
from lens_pipeline.media.models import Rendition
from lens_pipeline.media.renditions.film import described_packets, probe

# Early audio is noticed from 45 ms on (ITU-R BT.1359).
_MAX_DRIFT_SECONDS = 0.04


class Packet(NamedTuple):
    time: float  # seconds at which it is shown
    size: int
    digest: str
    is_key: bool


def packets_of(file: Path, seconds: float, tools: Tools, work: Work) -> list[Packet]:
    """Of its video, in the order of decoding."""
    entries = ["-show_entries", "packet=pts_time,size,flags,data_hash", "-show_data_hash", "CRC32"]
    return [
        Packet(float(one["pts_time"]), int(one["size"]), one["data_hash"], "K" in one["flags"])
        for one in described_packets(file, seconds, entries, tools, work)
    ]


def check_strips(files: Sequence[Path], seconds: float, tools: Tools, work: Work) -> None:
    """Decodes them. Raises MediaError: not all frames are shown."""
    command = [str(tools.ffmpeg), "-loglevel", "warning", "-xerror"]
    for file in files:
        # It changes no error, and takes a quarter of the time.
        command += ["-skip_loop_filter", "all", *file_input(file.resolve(), "mov")]
    for number in range(len(files)):
        command += ["-map", f"{number}:v:0"]
    command += ["-f", "null", "-"]
    messages = run_long(command, seconds, "verifying", work)
    if messages:
        raise MediaError(f"the rendition does not decode cleanly: {messages.strip()[-400:]}")


def check_piece(
    rendition: Rendition, strip: Sequence[Packet], has_sound: bool, tools: Tools, work: Work
) -> None:
    """Raise MediaError: it is not what was asked for, or not those packets of a checked strip.

    `strip`: its packets from the piece's first on.
    """
    packets = packets_of(rendition.path, rendition.duration_seconds, tools, work)
    streams = probe(rendition.path, tools)["streams"]
    by_kind = {stream["codec_type"]: stream for stream in streams}
    video = by_kind["video"]
    if has_sound != ("audio" in by_kind):
        raise MediaError("the rendition has no sound" if has_sound else "the rendition has sound")
    seconds = float(video["duration"])
    audio_seconds = float(by_kind.get("audio", video)["duration"])
    frame_seconds = rendition.duration_seconds / rendition.frames
    for name, found, wanted, tolerance in (
        ("frames", len(packets), rendition.frames, 0),
        ("pixels in width", video["width"], rendition.width, 0),
        ("pixels in height", video["height"], rendition.height, 0),
        ("seconds", seconds, rendition.duration_seconds, frame_seconds),
        ("seconds of sound", audio_seconds, seconds, _MAX_DRIFT_SECONDS),
    ):
        if abs(found - wanted) > tolerance:
            raise MediaError(f"the rendition has {found:g} {name} instead of {wanted:g}")
    check_same(packets, strip)
    check_times(packets, frame_seconds)
    boxes = list(mp4_boxes(rendition.path))
    if boxes.index(b"moov") > boxes.index(b"mdat"):
        raise MediaError("the rendition has its index at its end")


def check_same(packets: Sequence[Packet], source: Sequence[Packet]) -> None:
    """Raise MediaError: `source` does not begin with these packets."""
    if [one[1:3] for one in packets] != [one[1:3] for one in source[: len(packets)]]:
        raise MediaError("packets of the rendition are not those of its source")


def check_times(packets: Sequence[Packet], frame_seconds: float) -> None:
    """Raise MediaError: it does not begin with a key frame, or the frames are not one by one."""
    if not packets[0].is_key:
        raise MediaError("the rendition does not begin with a key frame")
    for number, time in enumerate(sorted(packet.time for packet in packets)):
        if abs(time - number * frame_seconds) > frame_seconds / 2:
            raise MediaError(f"frame {number} of the rendition is shown at {time:.3f} s")
