"""Compares a master with the parts that went into it. Nothing is decoded."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from lens_pipeline.media.concat.mux import Part, delay
from lens_pipeline.media.concat.probe import describe_packets
from lens_pipeline.media.errors import Cancelled, MediaError
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import mp4_boxes

# Sync errors are noticed from 45 ms on (ITU-R BT.1359-1).
_SYNC_SECONDS = Fraction(40, 1000)
_CHECK_EVERY = 64
_FIELDS = "stream_index,pts,dts,pos,size"


def check_structure(
    master: Path, parts: Sequence[Part], frame_rate: Fraction, tools: Tools, work: Work
) -> None:
    """Compare the packets of a master with `parts`: unchanged, in time and decoding order.

    Video and audio start and end together; the index comes first. Raises MediaError, with the
    difference. Cancelled.
    """
    boxes = list(mp4_boxes(master))
    if b"moov" not in boxes or boxes.index(b"moov") > boxes.index(b"mdat"):
        raise MediaError("the index of the master does not come first")
    described = describe_packets(master, "mov", _FIELDS, tools, work)
    if [stream["codec_type"] for stream in described["streams"]] != ["video", "audio"]:
        raise MediaError("the master has other tracks than one of video and one of sound")
    video, audio = described["streams"]
    length = sum(part.frames for part in parts) / frame_rate
    _check_length("video", video, length, Fraction(1, 1000) + Fraction(video["time_base"]))
    _check_length("sound", audio, length, _SYNC_SECONDS)
    video_packets, audio_packets = (
        [packet for packet in described["packets"] if packet["stream_index"] == index]
        for index in (0, 1)
    )
    _check_order(video_packets)
    _check_order(audio_packets)
    _check_times(video_packets, Fraction(video["time_base"]) * frame_rate, parts)
    _check_payload(master, video_packets, parts, work.cancelled)


def _check_length(
    name: str, stream: Mapping[str, Any], length: Fraction, tolerance: Fraction
) -> None:
    start, duration = Fraction(stream["start_time"]), Fraction(stream["duration"])
    if abs(start) > tolerance or abs(start + duration - length) > tolerance:
        raise MediaError(
            f"{name} of the master lasts from {float(start):.3f} s to "
            f"{float(start + duration):.3f} s, not from 0 to {float(length):.3f} s"
        )


def _check_order(packets: Sequence[Mapping[str, Any]]) -> None:
    if any(after["dts"] <= before["dts"] for before, after in pairwise(packets)):
        raise MediaError("packets of the master are out of order")


def _check_times(
    packets: Sequence[Mapping[str, Any]], frames_a_tick: Fraction, parts: Sequence[Part]
) -> None:
    expected: list[tuple[int, int]] = []
    ahead = delay(parts)
    for part in parts:
        first = len(expected)
        expected += [
            (first + place, first + number - ahead)
            for number, place in enumerate(part.display_order)
        ]
    if len(packets) != len(expected):
        raise MediaError(f"the master has {len(packets)} frames, not {len(expected)}")
    for number, (packet, times) in enumerate(zip(packets, expected, strict=True)):
        if (packet["pts"] * frames_a_tick, packet["dts"] * frames_a_tick) != times:
            raise MediaError(f"frame {number} has a wrong time in the master")


def _check_payload(
    master: Path,
    packets: Sequence[Mapping[str, Any]],
    parts: Sequence[Part],
    cancelled: Callable[[], bool],
) -> None:
    expected = [digest for part in parts for digest in part.packet_hashes]
    with master.open("rb") as file:
        for number, (packet, digest) in enumerate(zip(packets, expected, strict=True)):
            if number % _CHECK_EVERY == 0 and cancelled():
                raise Cancelled("verifying")
            file.seek(int(packet["pos"]))
            if hashlib.sha256(file.read(int(packet["size"]))).hexdigest() != digest:
                raise MediaError(f"frame {number} was changed on the way into the master")
