"""Encoding a shot to what the shots beside it look like."""

import hashlib
from dataclasses import astuple
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

import ffmpeg as ffmpeg_python

from lens_pipeline.media import color
from lens_pipeline.media.concat.plan import Target
from lens_pipeline.media.concat.probe import Shot
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools

# Part of the identity of every encoded shot: to be raised when other bytes come out.
VERSION = "2"
# Against medium at 23, on pans with film grain (x264 in FFmpeg 9.0): 0.43 of the processor time,
# SSIM 0.971 and 0.980 rather than 0.964 and 0.976, 1.4 times the bytes. At 21, SSIM is hardly
# better; faster at 21 gives what this gives and takes twice as long.
_PRESET, _CRF = "veryfast", 20
# Identifier of our SPS and PPS. Encoders number theirs from 0, so that both fit into one track.
PARAMETER_SET_ID = 17
_KEY_FRAME_SECONDS = 2
# Frames by which a shot may be filled up to its rounded length, beside those for which its last one
# is held: FFmpeg 5 does not know for how long that is.
_FILL_FRAMES = 2
_MATRICES = {"bt709": "bt709", "smpte170m": "bt601", "bt470bg": "bt601"}


def identity(sha256: str, target: Target) -> str:
    """Name of what a source with this hash becomes: equal exactly if the encoded bytes are."""
    return hashlib.sha256(repr((sha256, astuple(target), VERSION)).encode()).hexdigest()


def frames_at(shot: Shot, rate: Fraction) -> int:
    """Number of frames of `shot` at `rate`: the nearest, at least 1."""
    return max(1, floor(shot.length * rate + Fraction(1, 2)))


def encode(
    source: Path, shot: Shot, target: Target, output: str, stage: str, tools: Tools, work: Work
) -> Path:
    """Encode the video of `source` to `target`, without sound, as `output` in `work.directory`.

    The picture is scaled to fit and centred on black, never stretched. Raises what `run_long`
    does; MediaError also if `source` is HDR and this ffmpeg has no zscale filter.
    """
    video = ffmpeg_python.input(
        f"file:{source.resolve()}",
        f=shot.demuxer,
        protocol_whitelist="file,pipe",
    )[str(shot.stream)]
    command = ffmpeg_python.output(
        _filtered(video, shot, target), f"file:{output}", **_encoder(target)
    ).global_args("-y", "-v", "error", "-xerror")
    with color.told_if_impossible():
        run_long(command.compile(cmd=str(tools.ffmpeg)), float(shot.length), stage, work)
    return work.directory / output


def _filtered(video: object, shot: Shot, target: Target) -> object:
    width, height = _fit(shot, target)
    # The first frame at 0 whatever the file's clock says.
    video = ffmpeg_python.filter(video, "setpts", "PTS-STARTPTS")
    # FFmpeg 5 would leave out the last frame, for it takes the end for the time of that.
    video = ffmpeg_python.filter(
        video, "fps", fps=str(target.frame_rate), start_time=0, eof_action="pass"
    )
    if shot.signature.field_order not in ("unknown", "progressive"):
        video = ffmpeg_python.filter(video, "bwdif", mode="send_frame", deint="all")
    matrix = _matrix(target.colour_space, target.width, target.height)
    scaling = {"w": width, "h": height, "flags": color.SCALER}
    if shot.is_hdr:
        signature = shot.signature
        video = color.to_sdr(video, signature.colour_space, signature.colour_primaries)
        scaling |= {"in_color_matrix": "bt709", "in_range": "tv"}
    else:
        scaling["in_color_matrix"] = _matrix(
            shot.signature.colour_space, shot.signature.width, shot.signature.height
        )
    video = ffmpeg_python.filter(video, "scale", **scaling, out_color_matrix=matrix, out_range="tv")
    video = ffmpeg_python.filter(video, "format", "yuv420p")
    video = ffmpeg_python.filter(
        video, "pad", target.width, target.height, "(ow-iw)/2", "(oh-ih)/2"
    )
    video = ffmpeg_python.filter(video, "setsar", "1")
    # Exactly as many frames as the sound is cut for.
    held = ceil(target.frame_rate / shot.signature.frame_rate)
    video = ffmpeg_python.filter(video, "tpad", stop_mode="clone", stop=_FILL_FRAMES + held)
    return ffmpeg_python.filter(video, "trim", end_frame=frames_at(shot, target.frame_rate))


def _fit(shot: Shot, target: Target) -> tuple[int, int]:
    """Size within the target at which the shot keeps its shape, in even numbers."""
    width, height = shot.display_size
    scale = min(target.width / width, target.height / height)
    fitted_width, fitted_height = (
        max(2, 2 * floor(edge * scale / 2 + Fraction(1, 2))) for edge in (width, height)
    )
    return min(fitted_width, target.width), min(fitted_height, target.height)


def _matrix(tag: str, width: int, height: int) -> str:
    if tag == "bt2020nc":
        return "bt2020"
    return _MATRICES.get(tag, "bt709" if color.is_hd(width, height) else "bt601")


def _encoder(target: Target) -> dict[str, object]:
    tags = {
        "colorspace": target.colour_space,
        "color_trc": target.colour_transfer,
        "color_primaries": target.colour_primaries,
    }
    return {
        "format": "mp4",
        "vcodec": "libx264",
        "preset": _PRESET,
        "crf": _CRF,
        "profile:v": "high",
        "x264-params": f"sps-id={PARAMETER_SET_ID}",
        "g": floor(target.frame_rate * _KEY_FRAME_SECONDS),
        "color_range": "tv",
        **{option: tag for option, tag in tags.items() if tag != "unknown"},
    }
