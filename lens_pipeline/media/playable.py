"""Copies of videos for browsers: of what one does not play, or only once all of it is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from lens_pipeline.media.concat import audio
from lens_pipeline.media.concat.join import Limits, Source, join
from lens_pipeline.media.concat.plan import Method, web_barrier
from lens_pipeline.media.concat.probe import (
    audio_stream,
    describe_packets,
    signature_of,
    video_stream,
)
from lens_pipeline.media.errors import CommandFailed, MediaError, ShotError
from lens_pipeline.media.ffmpeg import ffprobe
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import file_extension, mp4_boxes, read_head, video_demuxer

_PROBE_SECONDS = 30.0
# Beside H.264 in an MP4.
_MP4_SOUND = frozenset({"aac", "mp3"})
# Safari plays these in WebM from 16 on (iOS 17.4); AV1 on new devices alone.
_WEBM_VIDEO, _WEBM_SOUND = frozenset({"vp8", "vp9"}), frozenset({"opus", "vorbis"})
# After what is in the way.
_UNPLAYED = ", which not all browsers play"
_FIELDS = "stream_index,pts,flags,data_hash"
# Times in Matroska are rounded to milliseconds.
_ROUNDING = Fraction(2, 1000)


@dataclass(frozen=True, slots=True)
class PlayableCopy:
    path: Path
    method: Method  # what was done with the pictures
    reason: str  # why the video itself is not enough


@dataclass(frozen=True, slots=True)
class _Probed:
    demuxer: str
    extension: str | None  # by content
    video: Mapping[str, Any]
    sound: Mapping[str, Any] | None
    seconds: float | None  # as the file states it


def render_playable(
    source: Path, sha256: str, tools: Tools, work: Work, limits: Limits
) -> PlayableCopy | None:
    """Make an MP4 that all browsers play; None: they play `source`.

    Packets that they play are copied, the others encoded. Raises MediaError: `source` cannot be
    read, is damaged, or over a limit; and what `run_long` raises.
    """
    probed = _probe(source, tools, work)
    coding = _coding_barrier(source, probed, tools, work)
    barrier = coding or _container_barrier(source, probed)
    if barrier is None:
        return None
    path = None if coding else _remux(source, probed, tools, work)
    if path is not None:
        return PlayableCopy(path, "copy", barrier)
    try:
        made = join([Source("", source, sha256)], tools, work, limits=limits, compatibility="web")
    except ShotError as error:
        # People know of no shot.
        reason = error.reason.removeprefix(f"shot {error.shot!r}: ")
        raise MediaError(reason, error.over_limit) from error
    return PlayableCopy(made.path, made.method, barrier)


def _probe(source: Path, tools: Tools, work: Work) -> _Probed:
    head = read_head(source)
    demuxer, options = video_demuxer(head), ["-show_format"]
    described = ffprobe.describe(source, demuxer, options, tools, _PROBE_SECONDS, work.cancelled)
    seconds = described["format"].get("duration")
    return _Probed(
        demuxer=demuxer,
        extension=file_extension(head),
        video=video_stream(described["streams"]),
        sound=audio_stream(described["streams"]),
        seconds=float(seconds) if seconds else None,
    )


def _coding_barrier(source: Path, probed: _Probed, tools: Tools, work: Work) -> str | None:
    """Why some browser does not play the packets."""
    is_webm = probed.extension == ".webm"
    if barrier := _webm_barrier(probed.video) if is_webm else _mp4_barrier(probed.video):
        return f"{barrier}{_UNPLAYED}"
    if is_webm and probed.seconds is None:
        return "it does not state its length, without which browsers cannot seek"
    if probed.sound is None:
        return None
    codec = probed.sound.get("codec_name")
    if codec not in (_WEBM_SOUND if is_webm else _MP4_SOUND):
        return f"its sound is {codec}{_UNPLAYED}"
    stream, seconds = probed.sound["index"], probed.seconds or 0.0
    if audio.is_faulty(source, probed.demuxer, stream, seconds, tools, work):
        return "its sound is damaged, where browsers stop"
    return None


def _webm_barrier(video: Mapping[str, Any]) -> str | None:
    if video["codec_name"] not in _WEBM_VIDEO:
        return f"it is {video['codec_name']}"
    pixels = video.get("pix_fmt")
    return None if pixels == "yuv420p" else f"its pixel format is {pixels}"


def _mp4_barrier(video: Mapping[str, Any]) -> str | None:
    rate = ffprobe.fraction(video["avg_frame_rate"]) or Fraction(0)
    return web_barrier(signature_of(video, rate))


def _container_barrier(source: Path, probed: _Probed) -> str | None:
    """Why the file does not do, even if the packets would."""
    if probed.extension == ".webm":
        return None
    if probed.demuxer == "matroska":
        return f"it is Matroska{_UNPLAYED}"
    if probed.extension != ".mp4":
        return f"it is QuickTime{_UNPLAYED}"
    in_front = list(takewhile(lambda kind: kind != b"mdat", mp4_boxes(source)))
    if b"moof" in in_front:
        return "it is in fragments without an index"
    return None if b"moov" in in_front else "its index is at its end"


def _remux(source: Path, probed: _Probed, tools: Tools, work: Work) -> Path | None:
    """The same packets in an MP4 with its index in front; None: that does not keep them all."""
    path = work.directory / "playable.mp4"
    tracks = [track["index"] for track in (probed.video, probed.sound) if track]
    command = [
        *(str(tools.ffmpeg), "-v", "error", *file_input(source.resolve(), probed.demuxer)),
        *(option for index in tracks for option in ("-map", f"0:{index}")),
        *("-c", "copy", "-map_metadata", "-1", "-map_chapters", "-1"),
        *("-movflags", "+faststart", "-f", "mp4", f"file:{path.name}"),
    ]
    try:
        run_long(command, probed.seconds or 0.0, "copying", work)
    except CommandFailed:
        return None
    try:
        before = _packets(source, probed.demuxer, tracks, tools, work)
    except KeyError:  # a packet has no time or no data
        return None
    after = _packets(path, "mov", range(len(tracks)), tools, work)
    return path if _are_same(before, after) else None


class _Packet(NamedTuple):
    content: tuple[int, str, bool]  # track, hash, whether it is shown
    seconds: Fraction


def _packets(
    file: Path, demuxer: str, tracks: Sequence[int], tools: Tools, work: Work
) -> list[_Packet]:
    """Of each track after the other; the number of a track is its place among `tracks`."""
    described = describe_packets(file, demuxer, _FIELDS, tools, work)
    bases = {stream["index"]: Fraction(stream["time_base"]) for stream in described["streams"]}
    return [
        _Packet((place, one["data_hash"], "D" not in one["flags"]), one["pts"] * bases[track])
        for place, track in enumerate(tracks)
        for one in described["packets"]
        if one["stream_index"] == track
    ]


def _are_same(before: Sequence[_Packet], after: Sequence[_Packet]) -> bool:
    """All times may differ by the same."""
    if len(before) != len(after) or not before:
        return False
    shift = after[0].seconds - before[0].seconds
    return all(
        one.content == other.content and abs(other.seconds - one.seconds - shift) <= _ROUNDING
        for one, other in zip(before, after, strict=True)
    )
