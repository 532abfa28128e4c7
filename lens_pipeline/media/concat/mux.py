"""Copies packets of several MP4s into one, bit for bit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Self

from lens_pipeline.media.concat import avcc, bitstream, hvcc
from lens_pipeline.media.concat.audio import SAMPLE_RATE
from lens_pipeline.media.concat.mp4 import Samples, Track, layout, read_track, with_configuration
from lens_pipeline.media.concat.probe import Shot
from lens_pipeline.media.errors import Cancelled, MediaError, explain_disk_full

# As FFmpeg writes.
_LEAST_TIMESCALE = 10_000
# Larger pieces leave the processor's cache.
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A shot's video; fields as in `Shot`."""

    track: Track
    display_order: tuple[int, ...]
    packet_hashes: tuple[str, ...]
    frame_hashes: tuple[str, ...]
    last_key: int
    first: int = 0  # packets left out before

    @classmethod
    def of(cls, file: Path, shot: Shot) -> Self:
        """All of `file`, from ffmpeg. Raises MediaError: not the packets of `shot`."""
        track = read_track(file)
        if len(track.sizes) != shot.frames:
            raise MediaError(f"{len(track.sizes)} of {shot.frames} frames were copied")
        keys = bitstream.seekable(track)
        is_seekable = keys is None or shot.last_key in keys
        last_key = shot.last_key if is_seekable else max(keys or [0])
        return cls(
            replace(track, keys=keys),
            shot.display_order,
            shot.packet_hashes,
            shot.frame_hashes,
            last_key,
        )

    @property
    def frames(self) -> int:
        return len(self.display_order)

    def cut(self, first: int, end: int | None) -> Self:
        """These packets, shown without gaps."""
        order = self.display_order[first:end]
        shown = sorted(order)
        places = {place: number for number, place in enumerate(shown, first)}
        return replace(
            self,
            first=first,
            display_order=tuple(places[place] for place in order),
            frame_hashes=tuple(self.frame_hashes[place] for place in shown),
        )


def delay(parts: Sequence[Part]) -> int:
    """Frames by which decoding is ahead of display."""
    return max(
        number - place
        for part in parts
        for number, place in enumerate(part.display_order, part.first)
    )


def write(
    parts: Sequence[Part],
    audio: Path | None,
    frame_rate: Fraction,
    output: Path,
    cancelled: Callable[[], bool],
    configured_for: Sequence[Part] = (),
) -> None:
    """Write `parts`, a frame every 1 / `frame_rate` seconds, and `audio`; the index comes first.

    H.264 parameter sets are those of `configured_for`: the master of which `parts` are a window.
    Raises MediaError: the parts do not fit into one track. Cancelled, DiskFull.
    """
    tracks = [_video(parts, frame_rate, configured_for or parts)]
    length = Fraction(sum(part.frames for part in parts)) / frame_rate
    if audio is not None:
        tracks.append(_audio(read_track(audio), length))
    head, order = layout(tracks, SAMPLE_RATE)
    with explain_disk_full(), output.open("wb") as file:
        file.write(head)
        runs = (tracks[number].sources[sample] for number, samples in order for sample in samples)
        _copy(_contiguous(runs), file, cancelled)


def _video(parts: Sequence[Part], frame_rate: Fraction, configured_for: Sequence[Part]) -> Samples:
    # Whole ticks a frame.
    factor = 1
    while frame_rate.numerator * factor < _LEAST_TIMESCALE:
        factor *= 2
    ticks = frame_rate.denominator * factor
    ahead = delay(parts)
    sources: list[tuple[Path, int, int]] = []
    delays: list[int] = []
    keys: list[int] = []
    for part in parts:
        for number, place in enumerate(part.display_order, part.first):
            track = part.track
            if track.keys is None or number in track.keys:
                keys.append(len(sources))
            sources.append((track.file, track.offsets[number], track.sizes[number]))
            delays.append((place - number + ahead) * ticks)
    return Samples(
        entry=_entry(configured_for),
        display=parts[0].track.display,
        is_video=True,
        timescale=frame_rate.numerator * factor,
        sources=sources,
        durations=[ticks] * len(sources),
        delays=delays if any(delays) else [],
        keys=None if len(keys) == len(sources) else keys,
        media_start=ahead * ticks,
        length=len(sources) * ticks,
    )


def _entry(parts: Sequence[Part]) -> bytes:
    first = parts[0].track
    prepared = hvcc.as_hvc1 if first.entry[4:8] == b"hvc1" else bytes
    configurations = tuple(dict.fromkeys(prepared(part.track.configuration) for part in parts))
    if len(configurations) == 1:
        return with_configuration(first.entry, configurations[0])
    if first.entry[4:8] != b"avc1":
        raise MediaError("the codec configurations of the shots differ")
    return with_configuration(first.entry, avcc.merge(configurations))


def _audio(track: Track, length: Fraction) -> Samples:
    return Samples(
        entry=track.entry,
        display=track.display,
        is_video=False,
        timescale=SAMPLE_RATE,
        sources=[
            (track.file, offset, size)
            for offset, size in zip(track.offsets, track.sizes, strict=True)
        ],
        durations=track.durations,
        delays=[],
        keys=None,
        media_start=track.media_start,
        length=min(round(length * SAMPLE_RATE), sum(track.durations) - track.media_start),
    )


def _contiguous(sources: Iterator[tuple[Path, int, int]]) -> Iterator[tuple[Path, int, int]]:
    """The same bytes in fewer, longer pieces."""
    held: tuple[Path, int, int] | None = None
    for file, offset, size in sources:
        if held and held[0] == file and held[1] + held[2] == offset:
            held = (file, held[1], held[2] + size)
            continue
        if held:
            yield held
        held = (file, offset, size)
    if held:
        yield held


def _copy(
    pieces: Iterator[tuple[Path, int, int]], output: BinaryIO, cancelled: Callable[[], bool]
) -> None:
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for path, start, size in pieces:
        with path.open("rb", buffering=0) as source:
            source.seek(start)
            left = size
            while left:
                if cancelled():
                    raise Cancelled("joining")
                count = source.readinto(buffer[:left])
                if not count:
                    raise MediaError("a piece of the master ends early")
                output.write(buffer[:count])
                left -= count
