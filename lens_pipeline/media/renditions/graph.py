"""The ffmpeg commands: strips of one decode, the sound of a cut, a piece of a strip."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import ffmpeg as ffmpeg_python

from lens_pipeline.media.ffmpeg import filters
from lens_pipeline.media.ffmpeg.filters import Stream
from lens_pipeline.media.ffmpeg.run import file_input
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.renditions.film import Film
from lens_pipeline.media.renditions.plan import Look, Pass, Size, Strip

_SAMPLE_RATE = 48_000
# After a seek to a key frame, frames shown before it are missing: at most as many as H.264 and HEVC
# can hold back.
_LEAD_FRAMES = 16
# Of x264. On film with grain, the SSIM is that of `faster` at 20.3, for two thirds of its time.
_ENCODER = {"c:v": "libx264", "preset": "veryfast", "crf": 19, "profile:v": "high"}
_SOUND = {"c:a": "aac", "b:a": "160k"}
# Of the blurred picture's shorter edge: what is smaller cannot be seen.
_BLURRED_PIXELS, _BLUR_SIGMA = 72, 3


def strips_command(film: Film, wanted: Pass, files: Sequence[Path], tools: Tools) -> list[str]:
    """Encodes the strips, one file each, without sound."""
    source, lead = _opened(film, wanted.span)
    # Half a frame early against rounding.
    skipped = max(Fraction(0), lead - 1 / film.rate / 2)
    # Cut before anything costs time.
    picture = (
        source.video.filter("trim", start=f"{round(skipped * 1_000_000)}us")
        .filter("trim", end_frame=len(wanted.span))
        .filter("settb", f"{film.rate.denominator}/{film.rate.numerator}")
        .filter("setpts", "N")
    )
    parts = [_part_of(one, strip, wanted.span) for one, strip in _split(picture, wanted.strips)]
    # Encoders work side by side: more threads of each would wait for one another.
    threads = max(1, (os.cpu_count() or 1) // len(wanted.strips))
    outputs = [
        _strip_output(_shown(one, film, strip.look), film, strip, file, threads)
        for one, strip, file in zip(parts, wanted.strips, files, strict=True)
    ]
    return (
        ffmpeg_python.merge_outputs(*outputs).global_args("-xerror").compile(cmd=str(tools.ffmpeg))
    )


def sound_command(film: Film, cut: range, file: Path, tools: Tools) -> list[str]:
    """Encodes the sound of a cut, as long as its picture."""
    source, lead = _opened(film, cut)
    samples = round(len(cut) / film.rate * _SAMPLE_RATE)
    sound = (
        source.audio.filter("aresample", _SAMPLE_RATE, **{"async": 1, "first_pts": 0})
        .filter("aformat", sample_fmts="fltp", channel_layouts="stereo")
        .filter("atrim", start_sample=round(lead * _SAMPLE_RATE))
        .filter("asetpts", "N/SR/TB")
        .filter("apad", whole_len=samples)
        .filter("atrim", end_sample=samples)
    )
    output = ffmpeg_python.output(
        sound,
        f"file:{file.resolve()}",
        format="mp4",
        loglevel="warning",
        map_metadata=-1,
        map_chapters=-1,
        **_SOUND,
    )
    return output.global_args("-xerror").compile(cmd=str(tools.ffmpeg))


def piece_command(
    video: Path, seconds: Fraction, frames: int, sound: Path | None, file: Path, tools: Tools
) -> list[str]:
    """Copies `frames` from the key frame at `seconds` of a video, and the sound."""
    inputs = ["-ss", f"{round(seconds * 1_000_000)}us", *file_input(video.resolve(), "mov")]
    if sound is not None:
        inputs += file_input(sound.resolve(), "mov")
    return [
        *(str(tools.ffmpeg), "-loglevel", "warning", *inputs, "-map", "0:v:0"),
        *(["-map", "1:a:0"] if sound is not None else []),
        *("-c", "copy", "-frames:v", str(frames), "-map_metadata", "-1", "-map_chapters", "-1"),
        *("-f", "mp4", "-movflags", "+faststart", f"file:{file.resolve()}"),
    ]


def _opened(film: Film, cut: range) -> tuple[Stream, Fraction]:
    """The film from a little before the cut on, and the seconds until that begins."""
    begins = film.start + cut.start / film.rate
    seek_microseconds = max(0, round((begins - _LEAD_FRAMES / film.rate) * 1_000_000))
    source = ffmpeg_python.input(
        f"file:{film.path.resolve()}",
        format="mov",
        protocol_whitelist="file,pipe",
        ss=f"{seek_microseconds}us",
        # Shots may differ in their colour tags: anew, the filters would number frames from 0 again.
        reinit_filter=0,
    )
    return source, begins - Fraction(seek_microseconds, 1_000_000)


def _strip_output(picture: Stream, film: Film, strip: Strip, file: Path, threads: int) -> Stream:
    # Half a frame early against rounding.
    keys = [float((bound - Fraction(1, 2)) / film.rate) for bound in strip.bounds if bound]
    return ffmpeg_python.output(
        picture,
        f"file:{file.resolve()}",
        format="mp4",
        loglevel="warning",
        map_metadata=-1,
        map_chapters=-1,
        r=str(film.rate),
        **_ENCODER,
        threads=threads,
        pix_fmt="yuv420p",
        color_range="tv",
        **filters.SDR_TAGS,
        **({"force_key_frames": ",".join(f"{at:.6f}" for at in keys)} if keys else {}),
        # So that what is cut there needs nothing from before.
        **{"forced-idr": 1},
    )


def _split(picture: Stream, strips: Sequence[Strip]) -> list[tuple[Stream, Strip]]:
    copies = _copies(picture, len(strips))
    return list(zip(copies, strips, strict=True))


def _copies(picture: Stream, count: int) -> list[Stream]:
    if count == 1:
        return [picture]
    split = picture.filter_multi_output("split")
    return [split.stream(number) for number in range(count)]


def _part_of(picture: Stream, strip: Strip, span: range) -> Stream:
    if strip.span == span:
        return picture
    first = strip.span.start - span.start
    picture = picture.filter("trim", start_frame=first, end_frame=first + len(strip.span))
    return picture.filter("setpts", "N")


def _shown(picture: Stream, film: Film, look: Look) -> Stream:
    if look.part is not None:
        left, top, width, height = (f"{float(share):.9f}" for share in look.part)
        picture = picture.filter("crop", f"iw*{width}", f"ih*{height}", f"iw*{left}", f"ih*{top}")
    picture = filters.scaled(picture, film.colors, *look.picture)
    if look.picture != look.size:
        picture = (_with_blur if look.is_blurred else _with_bars)(picture, look)
    return picture.filter("setsar", 1).filter("setparams", range="tv", **filters.SDR_TAGS)


def _corner(look: Look) -> tuple[int, int]:
    # Even: colours are stored for two by two pixels.
    left, top = (
        (whole - part) // 4 * 2 for whole, part in zip(look.size, look.picture, strict=True)
    )
    return left, top


def _with_bars(picture: Stream, look: Look) -> Stream:
    return picture.filter("pad", *look.size, *_corner(look))


def _with_blur(picture: Stream, look: Look) -> Stream:
    """The film once more behind it, so large that it covers the whole."""
    before, behind = _copies(picture, 2)
    width, height = look.size
    share = min(Fraction(one, two) for one, two in zip(look.picture, look.size, strict=True))
    kept = tuple(max(2, round(edge * share)) for edge in look.size)
    small = Fraction(_BLURRED_PIXELS, min(look.size))
    tiny: Size = (max(2, round(width * small)), max(2, round(height * small)))
    behind = (
        behind.filter("crop", *kept)
        .filter("scale", *tiny, flags="area")
        .filter("gblur", _BLUR_SIGMA)
        .filter("scale", width, height, flags="bicubic")
    )
    left, top = _corner(look)
    return ffmpeg_python.filter([behind, before], "overlay", x=left, y=top)
