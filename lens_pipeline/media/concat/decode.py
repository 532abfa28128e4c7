"""Decodes video as a player would, and names each frame that it shows by a hash."""

import threading
from pathlib import Path

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools

# A fifth of the time of MD5.
_HASH = "murmur3"
# Of a line: stream, two times, duration, bytes, hash.
_FIELDS = 6


class DecodeError(MediaError):
    """ffmpeg failed; `frames` are shown before."""

    def __init__(self, reason: str, frames: int, over_limit: bool) -> None:
        super().__init__(reason, over_limit=over_limit)
        self.frames = frames


def frame_hashes(
    file: Path, demuxer: str, stream: int, seconds: float, stage: str, tools: Tools, work: Work
) -> tuple[str, ...]:
    """Of all frames that are shown, in order. Raises what `run_long` raises; DecodeError."""
    hashes = work.directory / f"frames-{threading.get_ident()}.txt"
    hashes.unlink(missing_ok=True)
    command = [
        *(str(tools.ffmpeg), "-y", "-v", "error", "-xerror", "-threads", "1", "-noautorotate"),
        # Frames of another size are not scaled to that of the first.
        *("-reinit_filter", "0"),
        *(*file_input(file.resolve(), demuxer), "-map", f"0:{stream}", "-fps_mode", "passthrough"),
        *("-flush_packets", "1", "-f", "framehash", "-hash", _HASH, f"file:{hashes.name}"),
    ]
    try:
        run_long(command, seconds, stage, work)
    except MediaError as error:
        raise DecodeError(error.reason, len(_read(hashes)), error.over_limit) from error
    return _read(hashes)


def frame_bytes(frame_hash: str) -> str:
    """How many bytes of pixels the frame has."""
    return frame_hash.rpartition(":")[0]


def _read(hashes: Path) -> tuple[str, ...]:
    lines = hashes.read_text("ascii").splitlines() if hashes.is_file() else []
    rows = (line.split(",") for line in lines if not line.startswith("#"))
    # The last line may be cut off.
    return tuple(f"{row[4].strip()}:{row[5].strip()}" for row in rows if len(row) == _FIELDS)
