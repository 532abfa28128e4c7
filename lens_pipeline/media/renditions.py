"""Renditions: a master, or a part, at a requested size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg as ffmpeg_python

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg import ffprobe, filters
from lens_pipeline.media.ffmpeg.filters import Stream
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import mp4_boxes, read_head, video_demuxer
from lens_pipeline.media.models import Rendition, ScaleSpec

SMALLEST, LARGEST = 2, 8192
_PROBE_SECONDS = 30.0
_SAMPLE_RATE = 48_000
# Enough for microseconds and usual rates, such as 60000/1001.
_TIME_DENOMINATOR = 1_000_000
# Early audio is noticed from 45 ms on (ITU-R BT.1359).
_MAX_DRIFT_SECONDS = 0.04
# After a seek to a key frame, frames shown before it are missing: at most as many as H.264 and HEVC
# can hold back.
_LEAD_FRAMES = 16


@dataclass(frozen=True, slots=True)
class _Master:
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

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.rate


def render_scaled(master: Path, spec: ScaleSpec, tools: Tools, work: Work) -> Rendition:
    """Render a part of a master MP4 with constant frame rate, as H.264 and AAC, and verify it.

    Frame n is in it if `start_seconds` <= n / rate < `end_seconds`, with times as exact fractions.
    Raises MediaError: the part or the size is impossible, or the master cannot be read; and what
    `run_long` raises.
    """
    width, height = _even(spec.width, "width"), _even(spec.height, "height")
    facts = _probe_master(master, tools)
    cut = _cut(spec, facts)
    path = work.directory / f"rendition-{width}x{height}-{cut.start}-{len(cut)}.mp4"
    rendition = Rendition(path, width, height, float(len(cut) / facts.rate), len(cut))
    command = _encode(facts, cut, (width, height), path).compile(cmd=str(tools.ffmpeg))
    with filters.explain_missing_filter():
        run_long(command, rendition.duration_seconds, "scaling", work)
    _verify(rendition, tools, work)
    return rendition


def _even(pixels: int, name: str) -> int:
    if not SMALLEST <= pixels <= LARGEST:
        raise MediaError(f"{name} must be {SMALLEST} to {LARGEST} pixels, not {pixels}")
    return pixels - pixels % 2


def _probe_master(master: Path, tools: Tools) -> _Master:
    probed = _probe(master, tools)
    video = ffprobe.first_video(probed["streams"])
    if "nb_frames" not in video:
        raise MediaError("the master has no index of its frames")
    aspect, rotation = ffprobe.sample_aspect(video), ffprobe.rotation(video)
    width, height = ffprobe.display_size(video["width"], video["height"], aspect, rotation)
    start = Fraction(video.get("start_time", 0)) - Fraction(probed["format"].get("start_time", 0))
    return _Master(
        path=master,
        frames=int(video["nb_frames"]),
        rate=_rate(video),
        width=width,
        height=height,
        start=start,
        has_audio=any(stream["codec_type"] == "audio" for stream in probed["streams"]),
        colors=filters.Colors.of(video),
    )


def _probe(source: Path, tools: Tools) -> dict[str, Any]:
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


def _cut(spec: ScaleSpec, master: _Master) -> range:
    start = _time(spec.start_seconds, "start") or Fraction(0)
    end = _time(spec.end_seconds, "end")
    if end is not None and end <= start:
        raise MediaError(f"the end ({float(end):g} s) is not after the start ({float(start):g} s)")
    if start >= master.seconds:
        raise MediaError(
            f"the start ({float(start):g} s) is beyond the end: "
            f"the master is {float(master.seconds):.1f} s long"
        )
    first = math.ceil(start * master.rate)
    after = master.frames if end is None else min(master.frames, math.ceil(end * master.rate))
    if first >= after:
        raise MediaError("no frame begins between the start and the end")
    return range(first, after)


def _time(seconds: float | None, name: str) -> Fraction | None:
    if seconds is None:
        return None
    if not math.isfinite(seconds):
        raise MediaError(f"the {name} must be a number of seconds, not {seconds}")
    if seconds < 0:
        raise MediaError(f"the {name} must not be negative: {seconds:g} s")
    # A tenth for 0.1: binary numbers may lie on the other side of a frame's begin.
    return Fraction(seconds).limit_denominator(_TIME_DENOMINATOR)


def _encode(master: _Master, cut: range, size: tuple[int, int], path: Path) -> Stream:
    begins = master.start + cut.start / master.rate
    seek_microseconds = max(0, round((begins - _LEAD_FRAMES / master.rate) * 1_000_000))
    source = ffmpeg_python.input(
        f"file:{master.path.resolve()}",
        format="mov",
        protocol_whitelist="file,pipe",
        ss=f"{seek_microseconds}us",
        # Shots may differ in their colour tags: anew, the filters would number frames from 0 again.
        reinit_filter=0,
    )
    lead = begins - Fraction(seek_microseconds, 1_000_000)
    streams = [_picture(source, master, cut, lead, size)]
    if master.has_audio:
        streams.append(_audio(source, lead, len(cut) / master.rate))
    return ffmpeg_python.output(
        *streams,
        f"file:{path.resolve()}",
        format="mp4",
        loglevel="warning",
        movflags="+faststart",
        map_metadata=-1,
        map_chapters=-1,
        r=str(master.rate),
        **{"c:v": "libx264", "preset": "faster", "crf": 21, "profile:v": "high"},
        pix_fmt="yuv420p",
        color_range="tv",
        **filters.SDR_TAGS,
        **{"c:a": "aac", "b:a": "160k"},
    ).global_args("-xerror")


def _picture(
    source: Stream, master: _Master, cut: range, lead: Fraction, size: tuple[int, int]
) -> Stream:
    width, height = size
    fitted_width, fitted_height = _fit(master, size)
    # Even: colours are stored for two by two pixels.
    left, top = (width - fitted_width) // 4 * 2, (height - fitted_height) // 4 * 2
    # Half a frame early against rounding.
    skipped = max(Fraction(0), lead - 1 / master.rate / 2)
    # Cut before anything costs time.
    picture = (
        source.video.filter("trim", start=f"{round(skipped * 1_000_000)}us")
        .filter("trim", end_frame=len(cut))
        .filter("settb", f"{master.rate.denominator}/{master.rate.numerator}")
        .filter("setpts", "N")
    )
    return (
        filters.scaled(picture, master.colors, fitted_width, fitted_height)
        .filter("pad", width, height, left, top)
        .filter("setsar", 1)
        .filter("setparams", range="tv", **filters.SDR_TAGS)
    )


def _fit(master: _Master, size: tuple[int, int]) -> tuple[int, int]:
    """The nearest even numbers to the largest size with the master's shape."""
    scale = min(size[0] / master.width, size[1] / master.height)
    width, height = (max(2, 2 * round(edge * scale / 2)) for edge in (master.width, master.height))
    return width, height


def _audio(source: Stream, lead: Fraction, seconds: Fraction) -> Stream:
    samples = round(seconds * _SAMPLE_RATE)
    return (
        source.audio.filter("aresample", _SAMPLE_RATE, **{"async": 1, "first_pts": 0})
        .filter("aformat", sample_fmts="fltp", channel_layouts="stereo")
        .filter("atrim", start_sample=round(lead * _SAMPLE_RATE))
        .filter("asetpts", "N/SR/TB")
        .filter("apad", whole_len=samples)
        .filter("atrim", end_sample=samples)
    )


def _verify(rendition: Rendition, tools: Tools, work: Work) -> None:
    """Raise MediaError: it is wrong, for example since the master is damaged."""
    probed = _probe(rendition.path, tools)
    streams = {stream["codec_type"]: stream for stream in probed["streams"]}
    video = streams["video"]
    seconds = float(video["duration"])
    audio_seconds = float(streams.get("audio", video)["duration"])
    frame_seconds = rendition.duration_seconds / rendition.frames
    for name, found, wanted, tolerance in (
        ("frames", int(video["nb_frames"]), rendition.frames, 0),
        ("pixels in width", video["width"], rendition.width, 0),
        ("pixels in height", video["height"], rendition.height, 0),
        ("seconds", seconds, rendition.duration_seconds, frame_seconds),
        ("seconds of sound", audio_seconds, seconds, _MAX_DRIFT_SECONDS),
    ):
        if abs(found - wanted) > tolerance:
            raise MediaError(f"the rendition has {found:g} {name} instead of {wanted:g}")
    boxes = list(mp4_boxes(rendition.path))
    if boxes.index(b"moov") > boxes.index(b"mdat"):
        raise MediaError("the rendition has its index at its end")
    command = [
        *(str(tools.ffmpeg), "-loglevel", "warning", "-xerror"),
        *(*file_input(rendition.path.resolve(), "mov"), "-f", "null", "-"),
    ]
    messages = run_long(command, rendition.duration_seconds, "verifying", work)
    if messages:
        raise MediaError(f"the rendition does not decode cleanly: {messages.strip()[-400:]}")
