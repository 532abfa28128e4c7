"""Facts about a shot, from ffprobe."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self

from lens_pipeline.media.concat import decode, hvcc
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg import ffprobe
from lens_pipeline.media.ffmpeg.filters import HDR_TRANSFERS, check_matrix
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.sample_tables import MOST_DESCRIPTION_BYTES, MOST_SAMPLES
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
# SMPTE ST 2036-1.
STANDARD_RATES = tuple(
    Fraction(rate)
    for rate in ("24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60")
)
_SHOT_FIELDS = "stream_index,pts,duration,flags,pos,size,data_hash"
# Of a Matroska block, before its data: the number of a track below 127, a time, flags.
_BLOCK_HEADER_BYTES = 4
# Against the times of frames, before their durations count as false.
_MOST_OVERLAP = 1.1


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
    # As joined, by EBU R128, if measured; `audio.SILENCE` for silence.
    loudness: float | None = None  # LUFS
    peak: float | None = None  # dBTP
    damaged: bool = False  # what does not decode is silent


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
    edited: bool  # some frames are not shown, but must be decoded
    starts_clean: bool  # the first packet is a key frame and shown first
    display_order: tuple[int, ...]  # frame number of each packet in decoding order
    last_key: int  # the last packet from which the rest decodes
    packet_hashes: tuple[str, ...]  # SHA-256, in decoding order
    audio: Audio | None
    # Of each frame that a decoder shows, in order; empty: not decoded yet.
    frame_hashes: tuple[str, ...] = ()
    # The key frame at which players drop frames before that they have not shown; None: none known.
    drops_prior: int | None = None
    is_examined: bool = False  # all of it decodes, and can be encoded

    @property
    def frames(self) -> int:
        return len(self.display_order)

    @property
    def changes(self) -> bool:
        """Whether frames differ in size or format, as far as is known."""
        return len({decode.frame_bytes(name) for name in self.frame_hashes}) > 1

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
    stream = video_stream(described["streams"])
    packets = [
        packet for packet in described["packets"] if packet["stream_index"] == stream["index"]
    ]
    if len(described["packets"]) >= MOST_SAMPLES:
        raise MediaError(f"video has more than {MOST_SAMPLES:,} packets", over_limit=True)
    check_matrix(stream.get("color_space", ""))
    if int(stream.get("extradata_size", 0)) > MOST_DESCRIPTION_BYTES:
        raise MediaError("video's codec configuration is too large", over_limit=True)
    if stream["codec_name"] == "hevc":
        stream = {**stream, "extradata_hash": _hvcc_hash(source, demuxer, stream, tools, work)}
    _check_complete(demuxer, stream, packets)
    hidden = _hidden(source, demuxer, stream["codec_name"], packets)
    shot = _shot(demuxer, stream, packets, hidden, _audio(described["streams"]))
    _check_end(source, demuxer, described)
    return shot


def _hvcc_hash(
    source: Path, demuxer: str, stream: Mapping[str, Any], tools: Tools, work: Work
) -> str:
    """The same for `hvc1` and `hev1`."""
    options = ["-show_data", "-select_streams", str(stream["index"])]
    described = ffprobe.describe(source, demuxer, options, tools, _PROBE_SECONDS, work.cancelled)
    dump = described["streams"][0].get("extradata", "")
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


def video_stream(streams: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Raises MediaError: none, or none that can be decoded."""
    stream = ffprobe.first_video(streams)
    codec = stream.get("codec_name", "an unknown codec")
    if codec not in VIDEO_CODECS:
        raise MediaError(f"video is coded with {codec}, which is not supported")
    if not stream.get("width") or not stream.get("height"):
        raise MediaError("video is damaged: its frames have no size")
    return stream


def _check_complete(
    demuxer: str, stream: Mapping[str, Any], packets: Sequence[Mapping[str, Any]]
) -> None:
    if not packets:
        raise MediaError("video has no frames")
    promised = int(stream.get("nb_frames", 0))
    if len(packets) < promised:
        raise MediaError(
            f"video is truncated: {len(packets)} of its {promised} frames are in the file"
        )
    if demuxer == "matroska" and any("pts" not in packet for packet in packets):
        # The demuxer has no other reason.
        raise MediaError("video begins before the time 0, which is not supported")
    if any("pts" not in packet or "data_hash" not in packet for packet in packets):
        raise MediaError("video is damaged: a frame has no time or no data")


def _check_end(source: Path, demuxer: str, described: Mapping[str, Any]) -> None:
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
    if demuxer == "mov" and ends_in_fragment(source):
        raise MediaError(f"video is truncated: the file ends within a fragment, before {end:.1f} s")


def _hidden(
    source: Path, demuxer: str, codec: str, packets: Sequence[Mapping[str, Any]]
) -> list[bool]:
    """Whether each packet holds but a frame for reference: VP8 and VP9 have such."""
    if codec not in ("vp8", "vp9"):
        return [False] * len(packets)
    skipped = _BLOCK_HEADER_BYTES if demuxer == "matroska" else 0
    with source.open("rb") as file:
        return [
            _is_hidden(codec, file, int(packet["pos"]) + skipped, int(packet["size"]))
            for packet in packets
        ]


def _is_hidden(codec: str, file: BinaryIO, start: int, size: int) -> bool:
    """By the frame header (RFC 6386; VP9 bitstream specification, 6.2 and annex B)."""
    file.seek(start)
    first = int.from_bytes(file.read(1), "big")
    if codec == "vp8":
        return not first & 0x10
    # Profile 3 has a reserved bit more.
    bits = first << 1 if first & 0x30 == 0x30 else first
    if bits & 0x0A:
        return False
    file.seek(start + size - 1)
    # Such an index follows several frames, of which one is shown.
    return int.from_bytes(file.read(1), "big") & 0xE0 != 0xC0


def _shot(
    demuxer: str,
    stream: Mapping[str, Any],
    packets: Sequence[Mapping[str, Any]],
    hidden: Sequence[bool],
    audio: Audio | None,
) -> Shot:
    time_base = Fraction(stream["time_base"])
    in_order = sorted(range(len(packets)), key=lambda number: packets[number]["pts"])
    place = {number: at for at, number in enumerate(in_order)}
    shown = [
        packets[number]
        for number in in_order
        if not hidden[number] and "D" not in packets[number]["flags"]
    ]
    if not shown:
        raise MediaError("video has no frames: all are hidden")
    times = [packet["pts"] for packet in shown]
    if len(set(times)) < len(times):
        raise MediaError("video is damaged: two of its frames have the same time")
    last_duration = _last_duration(shown)
    rate = _constant_rate(stream, times, last_duration, time_base)
    length = (times[-1] + last_duration - times[0]) * time_base
    if rate is not None:
        length = len(times) / rate
    elif not length:
        raise MediaError("video has no frame rate")
    display_order = tuple(place[number] for number in range(len(packets)))
    return Shot(
        signature=signature_of(stream, rate or len(times) / length),
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


def _last_duration(shown: Sequence[Mapping[str, Any]]) -> int:
    """In ticks. Matroska states one for all frames, and some files a false one."""
    *others, last = (packet.get("duration", 0) for packet in shown)
    spread = shown[-1]["pts"] - shown[0]["pts"]
    return round(spread / len(others)) if sum(others) > spread * _MOST_OVERLAP else last


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
    stated = [_rate(stream, name) for name in ("r_frame_rate", "avg_frame_rate")]
    for rate in (*stated, _nearest_rate(times, time_base)):
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


def _nearest_rate(times: Sequence[int], time_base: Fraction) -> Fraction | None:
    """The usual one that is nearest to the mean."""
    if len(times) < 2:
        return None
    mean = (len(times) - 1) / ((times[-1] - times[0]) * time_base)
    return min(STANDARD_RATES, key=lambda rate: abs(rate - mean))


def _rate(stream: Mapping[str, Any], name: str) -> Fraction | None:
    rate = ffprobe.fraction(stream.get(name, "0/0"))
    return rate if rate is not None and rate <= _HIGHEST_RATE else None


def signature_of(stream: Mapping[str, Any], frame_rate: Fraction) -> Signature:
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


def audio_stream(streams: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The default track, else the first."""
    # A track without a decoder has no rate, and counts as silence.
    tracks = [
        stream
        for stream in streams
        if stream.get("codec_type") == "audio" and int(stream.get("sample_rate", 0))
    ]
    return max(tracks, key=lambda stream: stream["disposition"]["default"], default=None)


def _audio(streams: Sequence[Mapping[str, Any]]) -> Audio | None:
    track = audio_stream(streams)
    if track is None:
        return None
    return Audio(
        stream=track["index"],
        codec=track.get("codec_name", "unknown"),
        sample_rate=int(track["sample_rate"]),
        channels=track.get("channels", 0),
        start=Fraction(track.get("start_time", "0")),
    )
