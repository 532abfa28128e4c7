"""Packets of several MP4s to one MP4, bit for bit. Nothing is decoded.

Reads only what ffmpeg has written before: strangers' files are not opened in this process.
"""

import contextlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Self

import av
from av.error import FFmpegError
from av.packet import Packet

from lens_pipeline.media.errors import Cancelled, DiskFull, MediaError
from lens_pipeline.media.joining import avcc
from lens_pipeline.media.joining.shot import Shot
from lens_pipeline.media.joining.sound import FULL

# As Apple's players want it; FFmpeg's own choice is hev1.
_TAGS = {"hevc": "hvc1"}
_CHECK_EVERY = 64


@dataclass(frozen=True, slots=True)
class Part:
    """The video of one shot, ready to be copied."""

    file: Path
    """An MP4 with this one track."""
    display_order: tuple[int, ...]
    """For each packet, the number of its frame within the shot."""
    payload_sha256: str
    """As `Shot.payload_sha256`: what has to arrive in the master."""
    last_key: int
    """As `Shot.last_key`."""
    undamaged: bool
    """Whether all of it has been decoded before."""
    first: int = 0
    """Packets of the file that are left out before."""

    @classmethod
    def of(cls, file: Path, shot: Shot) -> Self:
        """The whole of `file`, which has the video packets of `shot`."""
        return cls(file, shot.display_order, shot.payload_sha256, shot.last_key, shot.undamaged)

    @property
    def frames(self) -> int:
        return len(self.display_order)

    def cut(self, first: int, end: int | None) -> Self:
        """The packets from `first` to before `end`."""
        return replace(self, first=first, display_order=self.display_order[first:end])


def delay(parts: Sequence[Part]) -> int:
    """Frames by which decoding must be ahead for every frame to be there when it is shown."""
    return max(
        number - place
        for part in parts
        for number, place in enumerate(part.display_order, part.first)
    )


def write(
    parts: Sequence[Part],
    sound: Path | None,
    frame_rate: Fraction,
    output: Path,
    cancelled: Callable[[], bool],
    configured_for: Sequence[Part] = (),
) -> None:
    """Write all frames of `parts`, one every 1 / `frame_rate` seconds, and the track of `sound`.

    The index comes first. Parts of H.264 may have different parameter sets, if their identifiers
    differ. The track has those of `configured_for`, if given: of a master of which `parts` are a
    window.

    Raises MediaError: a part is not what it should be. Cancelled, DiskFull.
    """
    with translated_errors(), av.open(str(output), "w", options={"movflags": "faststart"}) as file:
        with av.open(str(parts[0].file)) as template:
            source = template.streams.video[0]
            video = file.add_stream_from_template(source)
            video.time_base = 1 / frame_rate
            video.codec_context.extradata = _extradata(configured_for or parts)
            if source.codec_context.name in _TAGS:
                video.codec_context.codec_tag = _TAGS[source.codec_context.name]
        streams = [_video_packets(parts, frame_rate, video)]
        if sound is not None:
            with av.open(str(sound)) as template:
                audio = file.add_stream_from_template(template.streams.audio[0])
            streams.append(_audio_packets(sound, audio))
        packets = heapq.merge(*streams, key=_decoding_time)
        for number, packet in enumerate(packets):
            if number % _CHECK_EVERY == 0 and cancelled():
                raise Cancelled("joining")
            file.mux(packet)


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise DiskFull or MediaError for what libav raises."""
    try:
        yield
    except FFmpegError as error:
        if error.errno in FULL:
            raise DiskFull(f"no space left: {error.strerror}") from error
        raise MediaError(f"cannot be joined: {error.strerror}") from error


def _extradata(parts: Sequence[Part]) -> bytes | None:
    distinct: dict[bytes, None] = {}
    codec = ""
    for part in parts:
        with av.open(str(part.file)) as file:
            context = file.streams.video[0].codec_context
            distinct[bytes(context.extradata or b"")] = None
            codec = context.name
    if len(distinct) == 1:
        return next(iter(distinct)) or None
    if codec != "h264":
        raise MediaError("the shots' codec configurations differ")
    return avcc.merge(tuple(distinct))


def _video_packets(
    parts: Sequence[Part], frame_rate: Fraction, stream: av.VideoStream
) -> Iterator[Packet]:
    ahead = delay(parts)
    first = 0
    for part in parts:
        with av.open(str(part.file)) as file:
            packets = (packet for packet in file.demux(file.streams.video[0]) if packet.size)
            wanted = islice(packets, part.first, part.first + part.frames)
            for number, (packet, place) in enumerate(
                zip(wanted, part.display_order, strict=True), part.first
            ):
                packet.stream = stream
                packet.time_base = 1 / frame_rate
                packet.pts = first + place
                packet.dts = first + number - ahead
                packet.duration = 1
                yield packet
        first += part.first + part.frames


def _audio_packets(sound: Path, stream: av.AudioStream) -> Iterator[Packet]:
    with av.open(str(sound)) as file:
        for packet in file.demux(file.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                yield packet


def _decoding_time(packet: Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base
