"""Proof that a master is what its shots say, before anyone sees it."""

import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.container import InputContainer

from lens_pipeline.media.content import mp4_boxes
from lens_pipeline.media.errors import Cancelled, MediaError
from lens_pipeline.media.joining.mux import Part, delay, translated_errors
from lens_pipeline.media.joining.sound import SAMPLE_RATE, sample_at

# Lip sync is noticed from about 45 ms on (ITU-R BT.1359-1).
_SYNC_SECONDS = Fraction(40, 1000)
_CHECK_EVERY = 64


def check_structure(
    master: Path, parts: Sequence[Part], frame_rate: Fraction, cancelled: Callable[[], bool]
) -> None:
    """Compare a master's packets with what went into it.

    Every frame of every part is there, unchanged, at its time, in an order that can be decoded;
    video and sound start together and end together; the index comes first. Whether the packets
    decode is not looked at.

    Raises MediaError: they differ; the reason says how. Cancelled.
    """
    boxes = list(mp4_boxes(master))
    if b"moov" not in boxes or boxes.index(b"moov") > boxes.index(b"mdat"):
        raise MediaError("the index of the master does not come first")
    with translated_errors(), av.open(str(master)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        frames = sum(part.frames for part in parts)
        length = frames / frame_rate
        _check_length("video", video, length, 1 / frame_rate)
        _check_length("sound", audio, length, _SYNC_SECONDS)
        if audio.duration is None or audio.time_base is None:
            raise MediaError("the sound of the master has no length")
        if abs(sample_at(audio.duration * audio.time_base) - sample_at(length)) > 1:
            raise MediaError("the sound of the master is cut off")
        _check_packets(file, video, parts, frame_rate, cancelled)
    with translated_errors(), av.open(str(master)) as file:
        packets = (packet for packet in file.demux(file.streams.audio[0]) if packet.size)
        times = [packet.dts for packet in packets if packet.dts is not None]
        if any(after <= before for before, after in pairwise(times)):
            raise MediaError("packets of the sound are out of order")


def _check_length(
    name: str, stream: av.VideoStream | av.AudioStream, length: Fraction, tolerance: Fraction
) -> None:
    time_base = stream.time_base or Fraction(1, SAMPLE_RATE)
    start = (stream.start_time or 0) * time_base
    duration = (stream.duration or 0) * time_base
    if abs(start) > tolerance or abs(start + duration - length) > tolerance:
        raise MediaError(
            f"{name} of the master lasts from {float(start):.3f} s to "
            f"{float(start + duration):.3f} s, not from 0 to {float(length):.3f} s"
        )


def _check_packets(
    file: InputContainer,
    stream: av.VideoStream,
    parts: Sequence[Part],
    frame_rate: Fraction,
    cancelled: Callable[[], bool],
) -> None:
    packets = (packet for packet in file.demux(stream) if packet.size)
    ahead = delay(parts)
    first = 0
    for number, part in enumerate(parts, 1):
        payload = hashlib.sha256()
        for decoded, place in enumerate(part.display_order):
            if decoded % _CHECK_EVERY == 0 and cancelled():
                raise Cancelled("verifying")
            packet = next(packets, None)
            if packet is None or packet.pts is None or packet.dts is None:
                raise MediaError(f"a frame of shot {number} is missing in the master")
            ticks = packet.time_base * frame_rate
            if packet.pts * ticks != first + place or packet.dts * ticks != first + decoded - ahead:
                raise MediaError(f"a frame of shot {number} has a wrong time in the master")
            payload.update(hashlib.sha256(packet).digest())
        if payload.hexdigest() != part.payload_sha256:
            raise MediaError(f"packets of shot {number} changed on the way into the master")
        first += part.frames
    if next(packets, None) is not None:
        raise MediaError("the master has more frames than its shots")
