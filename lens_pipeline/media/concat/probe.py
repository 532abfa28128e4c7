"""Facts about a shot, from ffprobe."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from lens_pipeline.media.concat import hvcc
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg import ffprobe
from lens_pipeline.media.ffmpeg.filters import HDR_TRANSFERS
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.sample_tables import MOST_SAMPLES
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import (
    VIDEO_CODECS,
    ends_in_fragment,
    read_head,
    video_demuxer,
)

# Gigabytes take a few seconds; more means that the disk hangs.
_PROBE_SECONDS = 120.0
# Of the stated length.
_WHOLE_SHARE = 0.9
# Higher ones are the resolution of a clock.
_HIGHEST_RATE = 1000
_SHOT_FIELDS = "stream_index,pts,duration,flags,data_hash"


@dataclass(frozen=True, slots=True)
class Signature:
    """What packets of one track share."""

    codec: str
    profile: str
    level: int
    width: int
    height: int
    pixel_format: str
    sample_aspect: Fraction
    field_order: str
    colour_range: str
    colour_space: str
    colour_transfer: str
    colour_primaries: str
    has_b_frames: int  # frames by which decoding is ahead of display
    frame_rate: Fraction  # mean, if variable
    rotation: int  # degrees counter-clockwise, by the display matrix
    mirrored: bool  # by the display matrix
    extradata_sha256: str  # of the codec's configuration (H.264: SPS and PPS)


@dataclass(frozen=True, slots=True)
class Audio:
    stream: int
    codec: str
    sample_rate: int
    channels: int
    start: Fraction  # seconds, on the clock of the file


@dataclass(frozen=True, slots=True)
class Shot:
    """`join` stores these names."""

    signature: Signature
    demuxer: str
    stream: int
    time_base: Fraction
    start: Fraction  # first frame shown, seconds on the clock of the file
    length: Fraction  # seconds, exactly
    variable_rate: bool
    edited: bool  # an edit list hides frames, which must be decoded
    starts_clean: bool  # the first packet is a key frame and shown first
    display_order: tuple[int, ...]  # frame number of each packet in decoding order
    last_key: int  # the last packet from which the rest decodes
    packet_hashes: tuple[str, ...]  # SHA-256, in decoding order
    audio: Audio | None
    # Of each frame that a decoder shows, in order; empty: not decoded yet.
    frame_hashes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.display_order)

    @property
    def is_hdr(self) -> bool:
        return self.signature.colour_transfer in HDR_TRANSFERS

    @property
    def display_size(self) -> tuple[Fraction, Fraction]:
        """As shown, with square pixels."""
        own = self.signature
        return ffprobe.display_size(own.width, own.height, own.sample_aspect, own.rotation)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError, KeyError or TypeError: not from `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        signature, audio = fields["signature"], fields["audio"]
        if len(fields["display_order"]) != len(fields["packet_hashes"]):
            raise ValueError("not one hash for each packet")
        for described, names in (
            (fields, ("time_base", "start", "length")),
            (signature, ("sample_aspect", "frame_rate")),
            (audio or {}, ("start",) if audio else ()),
        ):
            try:
                described.update({name: Fraction(described[name]) for name in names})
            except ZeroDivisionError as error:
                raise ValueError("a fraction of nothing") from error
        fields["signature"] = Signature(**signature)
        fields["audio"] = audio and Audio(**audio)
        for name in ("display_order", "packet_hashes", "frame_hashes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def probe(source: Path, tools: Tools, work: Work) -> Shot:
    """Raises MediaError: not MP4, QuickTime, WebM or Matroska with usable video. Cancelled."""
    demuxer = video_demuxer(read_head(source))
    described = describe_packets(source, demuxer, _SHOT_FIELDS, tools, work)
    stream = _video_stream(described["streams"])
    packets = [
        packet for packet in described["packets"] if packet["stream_index"] == stream["index"]
    ]
    if len(described["packets"]) >= MOST_SAMPLES:
        raise MediaError(f"video has more than {MOST_SAMPLES:,} packets", over_limit=True)
    if stream["codec_name"] == "hevc":
        stream = {**stream, "extradata_hash": _hvcc_hash(source, demuxer, stream, tools, work)}
    _check_complete(stream, packets)
    _check_end(source, described)
    return _shot(demuxer, stream, packets, _audio(described["streams"]))


def _hvcc_hash(
    source: Path, demuxer: str, stream: Mapping[str, Any], tools: Tools, work: Work
) -> str:
    """The same for `hvc1` and `hev1`."""
    described = ffprobe.describe(
        source, demuxer, ["-show_data"], tools, _PROBE_SECONDS, work.cancelled
    )
    dump = described["streams"][stream["index"]].get("extradata", "")
    # An offset, 16 bytes in hex, the same as text.
    data = b"".join(bytes.fromhex(line[10:50]) for line in dump.splitlines() if line)
    return f"SHA256:{hashlib.sha256(hvcc.as_hvc1(data)).hexdigest()}"


def describe_packets(
    file: Path, demuxer: str, fields: str, tools: Tools, work: Work
) -> Mapping[str, Any]:
    """The `streams` and, in the file's order, `fields` of `packets`.

    Raises MediaError: no readable header. Cancelled.
    """
    options = [
        *("-show_entries", f"format=duration:packet={fields}"),
        *("-read_intervals", f"%+#{MOST_SAMPLES}"),
        *(("-show_data_hash", "sha256") if "data_hash" in fields else ()),
    ]
    return ffprobe.describe(file, demuxer, options, tools, _PROBE_SECONDS, work.cancelled)


def _video_stream(streams: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    stream = ffprobe.first_video(streams)
    codec = stream.get("codec_name", "an unknown codec")
    if codec not in VIDEO_CODECS:
        raise MediaError(f"video is coded with {codec}, which is not supported")
    if not stream.get("width") or not stream.get("height"):
        raise MediaError("video is damaged: its frames have no size")
    return stream


def _check_complete(stream: Mapping[str, Any], packets: Sequence[Mapping[str, Any]]) -> None:
    if not packets:
        raise MediaError("video has no frames")
    promised = int(stream.get("nb_frames", 0))
    if len(packets) < promised:
        raise MediaError(
            f"video is truncated: {len(packets)} of its {promised} frames are in the file"
        )
    if any("pts" not in packet or "data_hash" not in packet for packet in packets):
        raise MediaError("video is damaged: a frame has no time or no data")


def _check_end(source: Path, described: Mapping[str, Any]) -> None:
    """Raise MediaError: a file without a number of frames is cut off."""
    promised = float(described["format"].get("duration", 0))
    bases = {stream["index"]: Fraction(stream["time_base"]) for stream in described["streams"]}
    end = max(
        float((packet["pts"] + packet.get("duration", 0)) * bases[packet["stream_index"]])
        for packet in described["packets"]
        if "pts" in packet
    )
    if end < promised * _WHOLE_SHARE:
        raise MediaError(f"video is truncated: it ends at {end:.1f} s of {promised:.1f} s")
    if ends_in_fragment(source):
        raise MediaError(f"video is truncated: the file ends within a fragment, before {end:.1f} s")


def _shot(
    demuxer: str,
    stream: Mapping[str, Any],
    packets: Sequence[Mapping[str, Any]],
    audio: Audio | None,
) -> Shot:
    time_base = Fraction(stream["time_base"])
    in_order = sorted(packets, key=lambda packet: packet["pts"])
    place = {packet["pts"]: number for number, packet in enumerate(in_order)}
    if len(place) < len(packets):
        raise MediaError("video is damaged: two of its frames have the same time")
    shown = [packet for packet in in_order if "D" not in packet["flags"]]
    if not shown:
        raise MediaError("video has no frames: its edit list hides them all")
    times = [packet["pts"] for packet in shown]
    last_duration = shown[-1].get("duration", 0)
    rate = _constant_rate(stream, times, last_duration, time_base)
    mean = rate or _rate(stream, "avg_frame_rate") or _rate(stream, "r_frame_rate")
    if mean is None:
        raise MediaError("video has no frame rate")
    spread = (times[-1] + last_duration - times[0]) * time_base
    length = len(times) / rate if rate else max(spread, 1 / mean)
    display_order = tuple(place[packet["pts"]] for packet in packets)
    return Shot(
        signature=_signature(stream, mean),
        demuxer=demuxer,
        stream=stream["index"],
        time_base=time_base,
        start=times[0] * time_base,
        length=length,
        variable_rate=rate is None,
        edited=len(shown) < len(packets),
        starts_clean="K" in packets[0]["flags"] and display_order[0] == 0,
        display_order=display_order,
        last_key=_last_key(packets, display_order),
        packet_hashes=tuple(packet["data_hash"].rpartition(":")[2] for packet in packets),
        audio=audio,
    )


def _last_key(packets: Sequence[Mapping[str, Any]], display_order: Sequence[int]) -> int:
    """The last key frame shown before all frames decoded after it, or 0."""
    earliest = len(display_order)
    for number in range(len(display_order) - 1, 0, -1):
        earliest = min(earliest, display_order[number])
        if "K" in packets[number]["flags"] and display_order[number] == earliest:
            return number
    return 0


def _constant_rate(
    stream: Mapping[str, Any], times: Sequence[int], last_duration: int, time_base: Fraction
) -> Fraction | None:
    """None: it varies. Files round times of rates such as 30000/1001 by up to a tick."""
    for name in ("r_frame_rate", "avg_frame_rate"):
        rate = _rate(stream, name)
        # Coarse ticks prove nothing.
        if rate is None or time_base * rate > Fraction(1, 4):
            continue
        # A tick is 1 / (rate.numerator * time_base.denominator) seconds.
        tick = time_base.numerator * rate.numerator
        frame = rate.denominator * time_base.denominator
        is_even = all(
            abs((time - times[0]) * tick - number * frame) <= tick
            for number, time in enumerate(times)
        )
        if is_even and 2 * last_duration * tick <= 3 * frame:
            return rate
    return None


def _rate(stream: Mapping[str, Any], name: str) -> Fraction | None:
    rate = ffprobe.fraction(stream.get(name, "0/0"))
    return rate if rate is not None and rate <= _HIGHEST_RATE else None


def _signature(stream: Mapping[str, Any], frame_rate: Fraction) -> Signature:
    matrices = [data.get("displaymatrix", "") for data in stream.get("side_data_list", [])]
    return Signature(
        codec=stream["codec_name"],
        profile=stream.get("profile", "unknown"),
        level=stream.get("level", 0),
        width=stream["width"],
        height=stream["height"],
        pixel_format=stream.get("pix_fmt", "unknown"),
        sample_aspect=ffprobe.sample_aspect(stream),
        field_order=stream.get("field_order", "unknown"),
        colour_range=stream.get("color_range", "unknown"),
        colour_space=stream.get("color_space", "unknown"),
        colour_transfer=stream.get("color_transfer", "unknown"),
        colour_primaries=stream.get("color_primaries", "unknown"),
        has_b_frames=stream.get("has_b_frames", 0),
        frame_rate=frame_rate,
        rotation=ffprobe.rotation(stream),
        mirrored=any(map(_mirrors, matrices)),
        extradata_sha256=stream.get("extradata_hash", "").rpartition(":")[2],
    )


def _mirrors(matrix: str) -> bool:
    """Of ffprobe's rows with offsets."""
    rows = [[int(number) for number in line.split()[1:]] for line in matrix.strip().splitlines()]
    if len(rows) != 3:
        return False
    (a, b, _), (c, d, _), _ = rows
    return a * d - b * c < 0


def _audio(streams: Sequence[Mapping[str, Any]]) -> Audio | None:
    for stream in streams:
        # A track without a decoder has no rate, and counts as silence.
        if stream.get("codec_type") == "audio" and int(stream.get("sample_rate", 0)):
            return Audio(
                stream=stream["index"],
                codec=stream.get("codec_name", "unknown"),
                sample_rate=int(stream["sample_rate"]),
                channels=stream.get("channels", 0),
                start=Fraction(stream.get("start_time", "0")),
            )
    return None
