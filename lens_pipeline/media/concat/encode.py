"""Encodes the video of a shot to a target."""

import hashlib
import logging
from dataclasses import astuple
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import ffmpeg as ffmpeg_python

from lens_pipeline.media.concat.plan import Target
from lens_pipeline.media.concat.probe import Shot, Signature
from lens_pipeline.media.errors import CommandFailed, MediaError
from lens_pipeline.media.ffmpeg import filters
from lens_pipeline.media.ffmpeg.filters import Stream
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools

logger = logging.getLogger(__name__)

# Part of `identity`: raise it when other bytes come out.
VERSION = "3"
# Against medium at 23, on pans with film grain (x264 in FFmpeg 9.0): 0.43 of the processor time,
# SSIM 0.971 and 0.980 instead of 0.964 and 0.976, 1.4 times the bytes.
_PRESET, _CRF = "veryfast", 20
# Encoders number their SPS and PPS from 0: ours fit into the same track.
PARAMETER_SET_ID = 17
_KEY_FRAME_SECONDS = 2
# FFmpeg 5 does not know how long the last frame is held.
_FILL_FRAMES = 2
_MATRICES = {
    "bt709": "bt709",
    "smpte170m": "bt601",
    "bt470bg": "bt601",
    "fcc": "fcc",
    "smpte240m": "smpte240m",
}


def identity(sha256: str, target: Target) -> str:
    """Equal exactly if the encoded bytes are."""
    return hashlib.sha256(repr((sha256, astuple(target), VERSION)).encode()).hexdigest()


def frames_at(shot: Shot, rate: Fraction) -> int:
    """The nearest, at least 1."""
    return max(1, floor(shot.length * rate + Fraction(1, 2)))


def encode(
    source: Path, shot: Shot, target: Target, output: str, stage: str, tools: Tools, work: Work
) -> Path:
    """Encode the video of `source`, scaled to fit and centred on black, in `work.directory`.

    If its size or pixel format changes, all is fitted into its first picture. Raises what
    `run_long` raises; MediaError also: it cannot be encoded, with the reason.
    """
    frames = frames_at(shot, target.frame_rate)
    _run(source, shot, target, frames, stage, tools, work, f"file:{output}", **_encoder(target))
    return work.directory / output


def check(source: Path, shot: Shot, target: Target, tools: Tools, work: Work) -> None:
    """Encode one frame. Raises what `encode` raises."""
    if shot.changes and not _may_change(shot):
        raise MediaError("its picture changes its size, and is turned, interlaced or HDR")
    options = _encoder(target) | {"format": "null"}
    _run(source, shot, target, 1, "checking the picture", tools, work, "-", **options)


def _run(
    source: Path,
    shot: Shot,
    target: Target,
    frames: int,
    stage: str,
    tools: Tools,
    work: Work,
    output: str,
    **options: object,
) -> None:
    video = ffmpeg_python.input(
        f"file:{source.resolve()}",
        f=shot.demuxer,
        protocol_whitelist="file,pipe",
        # Filters start again at a change otherwise, and forget how many frames there were.
        **({"reinit_filter": 0} if _may_change(shot) else {}),
    )[str(shot.stream)]
    command = ffmpeg_python.output(
        _filter(video, shot, target, frames), output, **options
    ).global_args("-y", "-v", "error", "-xerror")
    try:
        with filters.explain_missing_filter():
            run_long(command.compile(cmd=str(tools.ffmpeg)), float(shot.length), stage, work)
    except CommandFailed as error:
        logger.warning("%s: %s", stage, error.reason)
        raise MediaError("its picture cannot be converted") from error


def _may_change(shot: Shot) -> bool:
    """False: a filter before the scaler takes frames of one size only."""
    is_turned = shot.signature.rotation or shot.signature.mirrored
    return not (is_turned or shot.is_hdr or _is_interlaced(shot))


def _is_interlaced(shot: Shot) -> bool:
    return shot.signature.field_order not in ("unknown", "progressive")


def _filter(video: Stream, shot: Shot, target: Target, frames: int) -> Stream:
    signature = shot.signature
    if _is_interlaced(shot):
        # Before frames are repeated or left out: it compares each with those beside it.
        video = video.filter("bwdif", mode="send_frame", deint="all")
    # FFmpeg 5 takes the time of the last frame for the end, and would leave it out.
    video = video.filter("setpts", "PTS-STARTPTS").filter(
        "fps", fps=str(target.frame_rate), start_time=0, eof_action="pass"
    )
    matrix = _matrix(target.colour_space, target.width, target.height)
    width, height = _fit(shot, target)
    scaling: dict[str, object] = {"w": width, "h": height, "flags": filters.SCALER}
    if shot.is_hdr:
        video = filters.to_sdr(video, signature.colour_space, signature.colour_primaries)
        scaling |= {"in_color_matrix": "bt709", "in_range": "tv"}
    else:
        usual = filters.with_usual_colors(
            video,
            signature.colour_space,
            signature.colour_transfer,
            signature.colour_primaries,
        )
        own = signature.colour_space if usual is video else "bt709"
        scaling["in_color_matrix"] = _matrix(own, signature.width, signature.height)
        video = usual
    if _may_change(shot):
        scaling |= _changing(signature, width, height)
    held = ceil(target.frame_rate / signature.frame_rate)
    return (
        video.filter("scale", **scaling, out_color_matrix=matrix, out_range="tv")
        .filter("format", "yuv420p")
        .filter("pad", target.width, target.height, "(ow-iw)/2", "(oh-ih)/2", eval="frame")
        .filter("setsar", "1")
        .filter("tpad", stop_mode="clone", stop=_FILL_FRAMES + held)
        .filter("trim", end_frame=frames)
    )


def _changing(signature: Signature, width: int, height: int) -> dict[str, object]:
    """Options of `scale`: frames of another size than the first go into its place."""
    is_first = f"eq(iw,{signature.width})*eq(ih,{signature.height})"
    fitted = f"min({width},{height}*dar)", f"min({height},{width}/dar)"
    return {
        "eval": "frame",
        "w": f"if({is_first},{width},max(2,2*round({fitted[0]}/2)))",
        "h": f"if({is_first},{height},max(2,2*round({fitted[1]}/2)))",
    }


def _fit(shot: Shot, target: Target) -> tuple[int, int]:
    """The nearest even numbers to the largest size with the shot's shape."""
    width, height = shot.display_size
    scale = min(target.width / width, target.height / height)
    # Halves go up; the target is even.
    width, height = (
        max(2, 2 * floor(edge * scale / 2 + Fraction(1, 2))) for edge in (width, height)
    )
    return width, height


def _matrix(tag: str, width: int, height: int) -> str:
    if tag == "bt2020nc":
        return "bt2020"
    return _MATRICES.get(tag, "bt709" if filters.is_hd(width, height) else "bt601")


def _encoder(target: Target) -> dict[str, object]:
    names = ("colorspace", "color_trc", "color_primaries")
    tags = (target.colour_space, target.colour_transfer, target.colour_primaries)
    return {
        "format": "mp4",
        "vcodec": "libx264",
        "preset": _PRESET,
        "crf": _CRF,
        "profile:v": "high",
        "x264-params": f"sps-id={PARAMETER_SET_ID}",
        "g": floor(target.frame_rate * _KEY_FRAME_SECONDS),
        "color_range": "tv",
        **{name: tag for name, tag in zip(names, tags, strict=True) if tag != "unknown"},
    }
