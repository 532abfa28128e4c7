"""The audio of a master: each shot's, cut or padded to its video, at one level."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import BinaryIO

from lens_pipeline.media.concat.probe import Audio, Shot
from lens_pipeline.media.errors import Cancelled, CommandFailed, MediaError, explain_disk_full
from lens_pipeline.media.ffmpeg.run import Work, file_input, run_long
from lens_pipeline.media.ffmpeg.tools import Tools

SAMPLE_RATE = 48_000  # per second; the master is stereo
_BITS_PER_SECOND = 160_000
# Against the default: 0.45 of the time, 1 dB more signal to noise (synthetic, FFmpeg 9.0).
_SEARCH = ("-aac_coder", "fast", "-aac_pns", "0", "-aac_is", "0")
# Two channels of 16 bits.
_SAMPLE_BYTES = 4
_PCM_INPUT = ("-ar", str(SAMPLE_RATE), "-ac", "2")
# LUFS: the absolute gate of EBU R128, and what ffmpeg says of less than 400 ms.
SILENCE = -70.0
# LUFS: noise of rooms and codecs lies below, and would be raised to speech.
_FAINTEST = -50.0
# dB: twice what shots that are made apart differ by.
_HIGHEST_RAISE = 20.0
# dBTP, by EBU R128.
_HIGHEST_PEAK = -1.0
# dB by which AAC at this rate exceeds the peaks that it is given.
_PEAK_MARGIN = 0.3
# For messages.
UNDECODABLE = "its sound cannot be decoded"
DAMAGED = "its sound is damaged, and silent there"
# What FFmpeg says from 6 on, and before.
_DAMAGE = re.compile(r"Error (?:submitting packet to decoder|while decoding stream)")
_INTEGRATED = re.compile(r"\bI: +(-?[\d.]+) LUFS")
_TRUE_PEAK = re.compile(r"\bPeak: +(-?(?:[\d.]+|inf)) dBFS")
_CHUNK_BYTES = 1 << 20


def sample_at(seconds: Fraction) -> int:
    """The nearest sample, so that roundings do not add up."""
    return floor(seconds * SAMPLE_RATE + Fraction(1, 2))


@dataclass(frozen=True, slots=True)
class Piece:
    """The audio of one shot."""

    pcm: Path | None  # None: silence
    samples: int
    gain: float = 0.0  # dB


def pcm_options(stream: int, video_start: Fraction, samples: int, output: str) -> list[str]:
    """At most `samples` of PCM from `video_start`, seconds on the file's clock; gaps silent."""
    first = sample_at(video_start)
    # Later audio could follow hours of silence.
    end = ceil((video_start + Fraction(samples, SAMPLE_RATE)) * 1_000_000)
    filters = (
        f"atrim=end={max(1, end)}us",
        f"aresample={SAMPLE_RATE}:async=1:first_pts={first}",
        "aformat=sample_fmts=s16:channel_layouts=stereo",
        f"atrim=end_sample={samples}",
    )
    return ["-map", f"0:{stream}", "-af", ",".join(filters), "-f", "s16le", f"file:{output}"]


def measure(source: Path, shot: Shot, track: Audio, tools: Tools, work: Work) -> Audio:
    """Decode the audio of a shot as it is joined. Raises MediaError: nothing decodes."""
    pcm = work.directory / "measured.pcm"
    command = [
        *(str(tools.ffmpeg), "-v", "error", "-copyts"),
        *file_input(source.resolve(), shot.demuxer),
        *pcm_options(track.stream, shot.start, sample_at(shot.length), pcm.name),
    ]
    try:
        messages = run_long(command, float(shot.length), "decoding sound", work)
        return measured(replace(track, damaged=is_damaged(messages)), pcm, tools, work)
    except CommandFailed as error:
        raise MediaError(UNDECODABLE) from error
    finally:
        pcm.unlink(missing_ok=True)


def is_faulty(
    source: Path, demuxer: str, stream: int, seconds: float, tools: Tools, work: Work
) -> bool:
    """Whether some of it, or all, does not decode."""
    command = [
        *(str(tools.ffmpeg), "-v", "error", *file_input(source.resolve(), demuxer)),
        *("-map", f"0:{stream}", "-f", "null", "-"),
    ]
    try:
        return is_damaged(run_long(command, seconds, "decoding sound", work))
    except CommandFailed:
        return True


def is_damaged(messages: str) -> bool:
    """By what ffmpeg said of decoding at level `error`: `info` has the text of tags as well."""
    return _DAMAGE.search(messages) is not None


def measured(track: Audio, pcm: Path, tools: Tools, work: Work) -> Audio:
    """`track` with the levels of its PCM, which has no tags: ffmpeg prints them at `info`."""
    command = [
        *(str(tools.ffmpeg), "-v", "info", *_PCM_INPUT, *file_input(pcm.name, "s16le")),
        # Without `verbose`, it says ten lines a second.
        *("-af", "ebur128=peak=true:framelog=verbose", "-f", "null", "-"),
    ]
    seconds = pcm.stat().st_size / _SAMPLE_BYTES / SAMPLE_RATE
    messages = run_long(command, seconds, "measuring sound", work)
    loudness, peak = (pattern.findall(messages) for pattern in (_INTEGRATED, _TRUE_PEAK))
    if not (loudness and peak):
        return track
    return replace(track, loudness=float(loudness[-1]), peak=max(SILENCE, float(peak[-1])))


def gain(track: Audio | None, loudness: float) -> float:
    """The dB that bring a measured track to `loudness` LUFS, or as near as limits allow.

    They are that of its peaks, and for what is faint one that falls to 0 at the level of noise.
    """
    if track is None or track.loudness is None or track.peak is None:
        return 0.0
    if track.loudness < _FAINTEST:
        return 0.0
    highest = min(_HIGHEST_RAISE, 2 * (track.loudness - _FAINTEST))
    return min(loudness - track.loudness, highest, _HIGHEST_PEAK - _PEAK_MARGIN - track.peak)


def encode(pieces: Sequence[Piece], output: str, tools: Tools, work: Work) -> Path:
    """Encode PCM files, cut or padded to their samples, as AAC in an MP4."""
    pcm = work.directory / f"{output}.pcm"
    with explain_disk_full(), pcm.open("wb") as file:
        end = 0
        for piece in pieces:
            if work.cancelled():
                raise Cancelled("joining")
            if piece.pcm is not None:
                _append(piece.pcm, piece.samples * _SAMPLE_BYTES, piece.gain, file)
            end += piece.samples * _SAMPLE_BYTES
            # Cuts, or pads with zeros.
            file.truncate(end)
            file.seek(end)
    command = [
        *(str(tools.ffmpeg), "-y", "-v", "error", *_PCM_INPUT),
        *(*file_input(pcm.name, "s16le"), "-c:a", "aac", "-b:a", str(_BITS_PER_SECOND)),
        *(*_SEARCH, "-f", "mp4", f"file:{output}"),
    ]
    run_long(command, end / _SAMPLE_BYTES / SAMPLE_RATE, "encoding sound", work)
    pcm.unlink()
    return work.directory / output


def _append(pcm: Path, size: int, decibels: float, output: BinaryIO) -> None:
    import numpy as np  # which every process of Dagster would load for it

    factor, limits = 10 ** (decibels / 20), np.iinfo(np.int16)
    with pcm.open("rb") as source:
        while data := source.read(min(size, _CHUNK_BYTES)):
            size -= len(data)
            if decibels:
                samples = np.frombuffer(data, np.int16)
                scaled = np.clip(np.rint(samples * factor), limits.min, limits.max)
                data = scaled.astype(np.int16).tobytes()
            output.write(data)
