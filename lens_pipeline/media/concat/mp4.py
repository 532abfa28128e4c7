"""Boxes of MP4 (ISO/IEC 14496-12): reads ffmpeg's, never strangers', and lays out new ones."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.formats import child_boxes

_HEADER = struct.Struct(">I4s")
_LARGE_HEADER = struct.Struct(">I4sQ")
_MOST_32_BITS = (1 << 32) - 1
# Fields of a VisualSampleEntry.
_VISUAL_ENTRY_BYTES = 78
_CONFIGURATIONS = (b"avcC", b"hvcC", b"vpcC", b"av1C")
_TRACK_IN_MOVIE_AND_ENABLED = 3
# "und" in three times five bits.
_UNDETERMINED_LANGUAGE = 0x55C4
_FULL_VOLUME = 0x0100
_UNITY = 1 << 16
# 16.16; the corner is 2.30.
_IDENTITY = struct.pack(">9i", _UNITY, 0, 0, 0, _UNITY, 0, 0, 0, 1 << 30)


@dataclass(frozen=True, slots=True)
class Track:
    file: Path
    entry: bytes  # with codec and configuration
    display: bytes  # matrix, width and height, as in the track header
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    keys: frozenset[int] | None  # numbers from 0; None: all
    durations: tuple[int, ...]  # ticks
    media_start: int  # ticks before the time 0 of the file

    @property
    def configuration(self) -> bytes:
        """The content of the decoder's configuration box; may be empty."""
        return b"".join(
            content for kind, content in _video_boxes(self.entry) if kind in _CONFIGURATIONS
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """A track to write; other fields as in `Track`."""

    entry: bytes
    display: bytes
    is_video: bool
    timescale: int  # ticks a second
    sources: Sequence[tuple[Path, int, int]]  # file, offset, size
    durations: Sequence[int]
    delays: Sequence[int]  # ticks from decoding to display; empty: 0
    keys: Sequence[int] | None
    media_start: int
    length: int  # ticks shown from `media_start` on


def read_track(file: Path) -> Track:
    """Raises MediaError: `file` is no MP4 from ffmpeg."""
    try:
        tables = dict(_leaves(_moov(file)))
        sizes = _sizes(tables[b"stsz"])
        return Track(
            file=file,
            entry=tables[b"stsd"][8:],
            display=tables[b"tkhd"][-44:],
            sizes=sizes,
            offsets=_offsets(tables, sizes),
            keys=_keys(tables.get(b"stss")),
            durations=tuple(_expanded(tables[b"stts"])),
            media_start=_media_start(tables.get(b"elst")),
        )
    except (KeyError, IndexError, struct.error) as error:
        raise MediaError("a track that was just written cannot be read") from error


def with_configuration(entry: bytes, configuration: bytes) -> bytes:
    content = entry[_HEADER.size : _HEADER.size + _VISUAL_ENTRY_BYTES] + b"".join(
        box(kind, configuration if kind in _CONFIGURATIONS else old)
        for kind, old in _video_boxes(entry)
        # The bit rate is that of one shot.
        if kind != b"btrt"
    )
    return box(entry[4:8], content)


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return _HEADER.pack(_HEADER.size + len(content), kind) + content


def layout(
    tracks: Sequence[Samples], movie_timescale: int
) -> tuple[bytes, list[tuple[int, range]]]:
    """All before the samples, and their order: runs (track, its samples) of about a second.

    Raises MediaError: longer than 32 bits can count.
    """
    if any(sum(track.durations) > _MOST_32_BITS for track in tracks):
        raise MediaError("the master is too long", over_limit=True)
    order = _interleaved(tracks)
    payload = sum(size for track in tracks for _, _, size in track.sources)
    large = payload + (1 << 28) > _MOST_32_BITS
    ftyp = box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2mp41")
    header = (
        _LARGE_HEADER.pack(1, b"mdat", payload + _LARGE_HEADER.size)
        if large
        else _HEADER.pack(payload + _HEADER.size, b"mdat")
    )
    # The offsets do not change its size.
    index_bytes = len(_index(tracks, order, 0, large, movie_timescale))
    start = len(ftyp) + index_bytes + len(header)
    return ftyp + _index(tracks, order, start, large, movie_timescale) + header, order


def _moov(file: Path) -> bytes:
    with file.open("rb") as opened:
        while len(header := opened.read(_HEADER.size)) == _HEADER.size:
            size, kind = _HEADER.unpack(header)
            body = size - _HEADER.size
            if size == 1:
                body = int.from_bytes(opened.read(8), "big") - _LARGE_HEADER.size
            if body < 0:
                raise KeyError("moov before a damaged box")
            if kind == b"moov":
                return opened.read(body)
            opened.seek(body, 1)
    raise KeyError("moov")


def _leaves(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, content in child_boxes(data):
        if kind in (b"trak", b"mdia", b"minf", b"stbl", b"edts"):
            yield from _leaves(content)
        else:
            yield kind, content


def _video_boxes(entry: bytes) -> Iterator[tuple[bytes, bytes]]:
    return child_boxes(entry[_HEADER.size + _VISUAL_ENTRY_BYTES :])


def _numbers(table: bytes, offset: int, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{count}I", table, offset)


def _sizes(stsz: bytes) -> tuple[int, ...]:
    same, count = _numbers(stsz, 4, 2)
    return (same,) * count if same else _numbers(stsz, 12, count)


def _offsets(tables: dict[bytes, bytes], sizes: Sequence[int]) -> tuple[int, ...]:
    if b"co64" in tables:
        (count,) = _numbers(tables[b"co64"], 4, 1)
        chunks = struct.unpack_from(f">{count}Q", tables[b"co64"], 8)
    else:
        (count,) = _numbers(tables[b"stco"], 4, 1)
        chunks = _numbers(tables[b"stco"], 8, count)
    (runs,) = _numbers(tables[b"stsc"], 4, 1)
    run_table = _numbers(tables[b"stsc"], 8, 3 * runs)
    firsts = [*run_table[::3], count + 1]
    offsets: list[int] = []
    for run, in_chunk in enumerate(run_table[1::3]):
        for chunk in chunks[firsts[run] - 1 : firsts[run + 1] - 1]:
            here = sizes[len(offsets) : len(offsets) + in_chunk]
            offsets += list(accumulate(here, initial=chunk))[: len(here)]
    return tuple(offsets)


def _keys(stss: bytes | None) -> frozenset[int] | None:
    if stss is None:
        return None
    (count,) = _numbers(stss, 4, 1)
    return frozenset(number - 1 for number in _numbers(stss, 8, count))


def _expanded(stts: bytes) -> Iterator[int]:
    (runs,) = _numbers(stts, 4, 1)
    table = _numbers(stts, 8, 2 * runs)
    for count, duration in zip(table[::2], table[1::2], strict=True):
        for _ in range(count):
            yield duration


def _media_start(elst: bytes | None) -> int:
    if elst is None:
        return 0
    if elst[0] == 1:
        return struct.unpack_from(">q", elst, 16)[0]
    return struct.unpack_from(">i", elst, 12)[0]


def _interleaved(tracks: Sequence[Samples]) -> list[tuple[int, range]]:
    runs: list[tuple[int, int, range]] = []
    for number, track in enumerate(tracks):
        starts = accumulate(track.durations[:-1], initial=0)
        seconds = [start // track.timescale for start in starts]
        first = 0
        for second, group in groupby(seconds):
            count = len(list(group))
            runs.append((second, number, range(first, first + count)))
            first += count
    return [(number, samples) for _, number, samples in sorted(runs, key=lambda run: run[:2])]


def _index(
    tracks: Sequence[Samples],
    order: Sequence[tuple[int, range]],
    start: int,
    large: bool,
    movie_timescale: int,
) -> bytes:
    chunks: list[list[tuple[int, int]]] = [[] for _ in tracks]
    for number, samples in order:
        chunks[number].append((start, len(samples)))
        start += sum(tracks[number].sources[sample][2] for sample in samples)
    lengths = [track.length * movie_timescale // track.timescale for track in tracks]
    mvhd = _full_box(
        b"mvhd",
        struct.pack(">4IIH10x", 0, 0, movie_timescale, max(lengths), _UNITY, _FULL_VOLUME),
        _IDENTITY,
        struct.pack(">24xI", len(tracks) + 1),
    )
    traks = [
        _trak(number, track, chunks[number - 1], lengths[number - 1], large)
        for number, track in enumerate(tracks, 1)
    ]
    return box(b"moov", mvhd, *traks)


def _trak(
    number: int, track: Samples, chunks: Sequence[tuple[int, int]], length: int, large: bool
) -> bytes:
    volume = 0 if track.is_video else _FULL_VOLUME
    tkhd = _full_box(
        b"tkhd",
        struct.pack(">5I8xHHHH", 0, 0, number, 0, length, 0, 0 if track.is_video else 1, volume, 0),
        track.display,
        flags=_TRACK_IN_MOVIE_AND_ENABLED,
    )
    elst = _full_box(b"elst", struct.pack(">IIiI", 1, length, track.media_start, _UNITY))
    mdhd = _full_box(
        b"mdhd",
        struct.pack(
            ">4IHH", 0, 0, track.timescale, sum(track.durations), _UNDETERMINED_LANGUAGE, 0
        ),
    )
    kind, name = (b"vide", b"VideoHandler\0") if track.is_video else (b"soun", b"SoundHandler\0")
    hdlr = _full_box(b"hdlr", struct.pack(">I4s12x", 0, kind), name)
    media_header = (
        _full_box(b"vmhd", bytes(8), flags=1) if track.is_video else _full_box(b"smhd", bytes(4))
    )
    dref = _full_box(b"dref", struct.pack(">I", 1), _full_box(b"url ", flags=1))
    stbl = box(b"stbl", *_tables(track, chunks, large))
    minf = box(b"minf", media_header, box(b"dinf", dref), stbl)
    return box(b"trak", tkhd, box(b"edts", elst), box(b"mdia", mdhd, hdlr, minf))


def _tables(track: Samples, chunks: Sequence[tuple[int, int]], large: bool) -> Iterator[bytes]:
    yield _full_box(b"stsd", struct.pack(">I", 1), track.entry)
    yield _full_box(b"stts", *_counted(_runs(track.durations)))
    if track.delays:
        yield _full_box(b"ctts", *_counted(_runs(track.delays)))
    if track.keys is not None:
        yield _full_box(b"stss", *_counted((key + 1,) for key in track.keys))
    runs: list[tuple[int, int, int]] = []
    for number, (_, count) in enumerate(chunks, 1):
        if not runs or runs[-1][1] != count:
            runs.append((number, count, 1))
    yield _full_box(b"stsc", *_counted(runs))
    sizes = [size for _, _, size in track.sources]
    yield _full_box(b"stsz", bytes(4), struct.pack(f">I{len(sizes)}I", len(sizes), *sizes))
    offsets = [offset for offset, _ in chunks]
    kind, code = (b"co64", "Q") if large else (b"stco", "I")
    yield _full_box(kind, struct.pack(f">I{len(offsets)}{code}", len(offsets), *offsets))


def _runs(values: Iterable[int]) -> Iterator[tuple[int, int]]:
    return ((len(list(group)), value) for value, group in groupby(values))


def _counted(rows: Iterable[tuple[int, ...]]) -> tuple[bytes, bytes]:
    rows = list(rows)
    numbers = [number for row in rows for number in row]
    return struct.pack(">I", len(rows)), struct.pack(f">{len(numbers)}I", *numbers)


def _full_box(kind: bytes, *contents: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", flags), *contents)
