"""Hover clips: a few seconds of a video, small and without sound."""

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg as ffmpeg_python

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg import ffprobe, filters
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import read_head, video_demuxer
from lens_pipeline.media.models import Video

EDGE = 480
MOST_BYTES = 300_000
# Without what says how it came to be.
_MOST_BARE_BYTES = 280_000
_LONGEST_SECONDS, _SHORTEST_SECONDS = 4.0, 3.0
# A poster from the end of a video that is long black leaves too little.
_LEAST_SECONDS = 1.5
_HIGHEST_RATE = 30
# CRF, and kbit/s at the most, until it is small enough. The buffer may add a second's worth.
_STEPS = ((26, 450), (32, 250), (40, 120))
_PROBE_SECONDS = 30.0


def render_clip(source: Path, at_seconds: float, seconds: float, tools: Tools, work: Work) -> Video:
    """Encode 3 to 4 s from `at_seconds` on of a video of `seconds`, less if it is shorter.

    If the scene changes in the fourth second, the clip ends there. Raises what `run_long` raises;
    MediaError also if the file cannot be read.
    """
    demuxer = video_demuxer(read_head(source))
    probed = ffprobe.describe(source, demuxer, [], tools, _PROBE_SECONDS, work.cancelled)
    video = ffprobe.first_video(probed["streams"])
    # The poster's time is rounded to milliseconds, and what begins before `start` is left out.
    start = max(0.0, min(at_seconds, seconds - _LEAST_SECONDS) - 0.001)
    path = work.directory / "clip.mp4"
    for crf, rate in _STEPS:
        command = _encode(source, demuxer, video, start, crf, rate, path)
        with filters.explain_missing_filter():
            run_long(command.compile(cmd=str(tools.ffmpeg)), _LONGEST_SECONDS, "clip", work)
        if path.stat().st_size <= _MOST_BARE_BYTES:
            break
    return _checked(_until_scene_change(path, tools, work), tools, work)


def _encode(
    source: Path,
    demuxer: str,
    video: Mapping[str, Any],
    start: float,
    crf: int,
    rate: int,
    path: Path,
) -> filters.Stream:
    opened = ffmpeg_python.input(
        f"file:{source.resolve()}", f=demuxer, protocol_whitelist="file,pipe", ss=f"{start:.6f}"
    )
    picture = filters.scaled(opened[str(video["index"])], filters.Colors.of(video), *_size(video))
    picture = _slowed(picture, video).filter("setsar", 1)
    return ffmpeg_python.output(
        picture.filter("setparams", range="tv", **filters.SDR_TAGS),
        f"file:{path.resolve()}",
        format="mp4",
        loglevel="error",
        t=_LONGEST_SECONDS,
        movflags="+faststart",
        map_metadata=-1,
        map_chapters=-1,
        # A key frame only where the scene changes.
        **{"c:v": "libx264", "preset": "faster", "crf": crf, "profile:v": "high"},
        maxrate=f"{rate}k",
        bufsize=f"{rate}k",
        g=9999,
        keyint_min=1,
        # It has time.
        threads=1,
        color_range="tv",
        **filters.SDR_TAGS,
    )


def _size(video: Mapping[str, Any]) -> tuple[int, int]:
    """Even, with square pixels, upright, not enlarged."""
    width, height = ffprobe.display_size(
        video["width"], video["height"], ffprobe.sample_aspect(video), ffprobe.rotation(video)
    )
    scale = min(Fraction(1), EDGE / max(width, height))
    width, height = (max(2, 2 * math.floor(edge * scale / 2)) for edge in (width, height))
    return width, height


def _slowed(picture: filters.Stream, video: Mapping[str, Any]) -> filters.Stream:
    """Of high rates, every second frame, or every third."""
    rate = ffprobe.fraction(video["avg_frame_rate"])
    if rate is None or rate <= _HIGHEST_RATE:
        return picture
    return picture.filter("fps", str(rate / math.ceil(rate / _HIGHEST_RATE)))


def _until_scene_change(path: Path, tools: Tools, work: Work) -> Path:
    """Without the frames after it, if at least the shortest length stays."""
    options = ["-show_entries", "packet=pts_time,flags"]
    described = ffprobe.describe(path, "mov", options, tools, _PROBE_SECONDS, work.cancelled)
    changes = (
        number
        for number, packet in enumerate(described["packets"])
        if "K" in packet["flags"] and float(packet["pts_time"]) >= _SHORTEST_SECONDS
    )
    frames = next(changes, None)
    if frames is None:
        return path
    cut = path.with_name("cut.mp4")
    command = [
        *(str(tools.ffmpeg), "-loglevel", "error", *file_input(path.resolve(), "mov")),
        *("-c", "copy", "-frames:v", str(frames), "-movflags", "+faststart", f"file:{cut}"),
    ]
    run_long(command, _LONGEST_SECONDS, "clip", work)
    return cut


def _checked(path: Path, tools: Tools, work: Work) -> Video:
    """Raises MediaError: it is empty or too large."""
    size = path.stat().st_size
    probed = ffprobe.describe(path, "mov", [], tools, _PROBE_SECONDS, work.cancelled)
    video = ffprobe.first_video(probed["streams"])
    if size > _MOST_BARE_BYTES or not int(video["nb_frames"]):
        raise MediaError(f"the clip has {size:,} bytes and {video['nb_frames']} frames")
    return Video(path, video["width"], video["height"], float(video["duration"]))
