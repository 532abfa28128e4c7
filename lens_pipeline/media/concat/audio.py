"""The sound of a master: every shot's cut or padded to its video, encoded in one go."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, floor
from pathlib import Path

from lens_pipeline.media.errors import Cancelled, DiskFull
from lens_pipeline.media.ffmpeg.run import Work, run_long
from lens_pipeline.media.ffmpeg.tools import Tools

SAMPLE_RATE = 48_000
"""Samples a second of the master's sound, which is stereo."""
_BITS_PER_SECOND = 160_000
# Enough bits for no tricks: against the default search, 0.45 of the time, 1 dB more of signal to
# noise (synthetic music and noise, FFmpeg 9.0).
_SEARCH = ("-aac_coder", "fast", "-aac_pns", "0", "-aac_is", "0")
# Two channels of 16 bits.
_SAMPLE_BYTES = 4
_CHUNK_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def sample_at(seconds: Fraction) -> int:
    """The number of the sample at this time of the master.

    Shots are cut at these: what is rounded off at one join is not carried to the next.
    """
    return floor(seconds * SAMPLE_RATE + Fraction(1, 2))


def pcm_options(stream: int, video_start: Fraction, samples: int) -> list[str]:
    """Options of an ffmpeg output: an audio track as PCM that starts with the video.

    `video_start` is in seconds on the file's clock (-copyts). Gaps are filled with silence. At
    most `samples` are written.
    """
    first = sample_at(video_start)
    # What comes later is not heard, and could have hours of silence made up before it.
    end = ceil((video_start + Fraction(samples, SAMPLE_RATE)) * 1_000_000)
    filters = (
        f"atrim=end={max(1, end)}us",
        f"aresample={SAMPLE_RATE}:async=1:first_pts={first}",
        "aformat=sample_fmts=s16:channel_layouts=stereo",
        f"atrim=end_sample={samples}",
    )
    return ["-map", f"0:{stream}", "-af", ",".join(filters), "-f", "s16le"]


def encode(
    pieces: Sequence[tuple[Path | None, int]], output: str, tools: Tools, work: Work
) -> Path:
    """Encode PCM files, each taken for exactly so many samples, as AAC in an MP4.

    What a file lacks is silence, as is all of None. Raises what `run_long` does.
    """
    joined = work.directory / f"{output}.pcm"
    with told_if_full(), joined.open("wb", buffering=0) as sound:
        end = 0
        for piece, samples in pieces:
            if work.cancelled():
                raise Cancelled("joining")
            if piece is not None:
                _append(piece, samples * _SAMPLE_BYTES, sound.fileno())
            end += samples * _SAMPLE_BYTES
            # Either end: what is cut off, and zeros up to where the next shot starts.
            sound.truncate(end)
            sound.seek(end)
    seconds = end / _SAMPLE_BYTES / SAMPLE_RATE
    command = [
        *(str(tools.ffmpeg), "-y", "-v", "error", "-f", "s16le"),
        *("-ar", str(SAMPLE_RATE), "-ac", "2"),
        *("-protocol_whitelist", "file,pipe", "-i", f"file:{joined.name}"),
        *("-c:a", "aac", "-b:a", str(_BITS_PER_SECOND), *_SEARCH, "-f", "mp4", f"file:{output}"),
    ]
    run_long(command, seconds, "encoding sound", work)
    joined.unlink()
    return work.directory / output


def _append(piece: Path, size: int, descriptor: int) -> None:
    with piece.open("rb") as source:
        remaining = size
        while remaining > 0:
            sent = os.sendfile(descriptor, source.fileno(), None, min(remaining, _CHUNK_BYTES))
            if not sent:
                return
            remaining -= sent


@contextlib.contextmanager
def told_if_full() -> Iterator[None]:
    """Raise DiskFull for what the system says of a full disk, quota or file size."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no space left: {error.strerror}") from error
        raise
