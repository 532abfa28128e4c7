"""What is known of a master before it is decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg import ffprobe, filters
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import mp4_boxes, read_head, video_demuxer

_PROBE_SECONDS = 30.0
# On a busy machine; and as much for each two hours.
_PACKETS_SECONDS, _PACKETS_PACE = 180.0, 180 / 7200


@dataclass(frozen=True, slots=True)
class Film:
    path: Path
    frames: int
    rate: Fraction
    # As shown, with square pixels.
    width: Fraction
    height: Fraction
    # Seconds, from the first packet.
    start: Fraction
    has_audio: bool
    colors: filters.Colors
    is_usual: bool
    """Whether a rendition may have its packets: what we encode has the same form."""

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.rate


def probe_film(master: Path, tools: Tools) -> Film:
    """Raises MediaError: it is no MP4 with an index and a video."""
    probed = probe(master, tools)
    video = ffprobe.first_video(probed["streams"])
    if "nb_frames" not in video:
        raise MediaError("the master has no index of its frames")
    aspect, rotation = ffprobe.sample_aspect(video), ffprobe.rotation(video)
    width, height = ffprobe.display_size(video["width"], video["height"], aspect, rotation)
    start = Fraction(video.get("start_time", 0)) - Fraction(probed["format"].get("start_time", 0))
    colors = filters.Colors.of(video)
    return Film(
        path=master,
        frames=int(video["nb_frames"]),
        rate=_rate(video),
        width=width,
        height=height,
        start=start,
        has_audio=any(stream["codec_type"] == "audio" for stream in probed["streams"]),
        colors=colors,
        is_usual=(video["codec_name"], video.get("pix_fmt")) == ("h264", "yuv420p")
        and (aspect, rotation, colors.is_hdr) == (1, 0, False)
        and colors.matrix == "bt709"
        and {colors.primaries, colors.transfer} <= {"bt709", "unknown"}
        and video.get("color_range") != "pc"
        and video.get("field_order", "progressive") == "progressive",
    )


def key_frames(film: Film, tools: Tools, work: Work) -> tuple[list[int], set[int]]:
    """Frames in the order of decoding, by their places in that of display; and the key frames."""
    entries = ["-show_entries", "packet=pts_time,flags"]
    packets = described_packets(film.path, float(film.seconds), entries, tools, work)
    first = min(Fraction(packet["pts_time"]) for packet in packets)
    order = [round((Fraction(packet["pts_time"]) - first) * film.rate) for packet in packets]
    keys = {n for n, packet in zip(order, packets, strict=True) if "K" in packet["flags"]}
    return order, keys


def described_packets(
    file: Path, seconds: float, entries: Sequence[str], tools: Tools, work: Work
) -> list[dict[str, Any]]:
    """Of `seconds` of its video alone: of all streams, those of a long film fill the memory."""
    options = ["-select_streams", "v:0", *entries]
    limit = _PACKETS_SECONDS + _PACKETS_PACE * seconds
    return ffprobe.describe(file, "mov", options, tools, limit, work.cancelled)["packets"]


def probe(source: Path, tools: Tools) -> dict[str, Any]:
    if video_demuxer(read_head(source)) != "mov":
        raise MediaError("the master is not an MP4")
    if b"moov" not in mp4_boxes(source):
        raise MediaError("video is incomplete: it has no index (moov)")
    return ffprobe.describe(source, "mov", ["-show_format"], tools, _PROBE_SECONDS)


def _rate(video: Mapping[str, Any]) -> Fraction:
    """The rounder of ffprobe's two, if it explains the length."""
    base, average = (ffprobe.fraction(video[key]) for key in ("r_frame_rate", "avg_frame_rate"))
    frames, seconds = int(video["nb_frames"]), Fraction(video.get("duration", 0))
    found = base if base and abs(frames / base - seconds) <= 1 / base else average
    if not found:
        raise MediaError("the master has no frame rate")
    return found
