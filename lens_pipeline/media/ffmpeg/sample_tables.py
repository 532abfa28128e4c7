"""Counts the samples that an MP4 or QuickTime file promises, before a demuxer reserves memory.

An index of a few bytes can promise billions: one size may hold for all samples.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lens_pipeline.media.errors import MediaError

# Four hours at 60 Hz with AAC are 1.6 million.
MOST_SAMPLES = 2_000_000

_HEADER = struct.Struct(">I4s")
_LARGE_SIZE = struct.Struct(">Q")
# In which ffmpeg looks for boxes of any kind.
_CONTAINERS = frozenset(
    b"moov trak mdia minf stbl moof traf dinf edts ilst meta mvex schi sinf tref udta wave".split()
)
# What ffmpeg takes for an index begins with one of these, whatever its name.
_INDEX_BEGINNINGS = (b"mvhd", b"cmov")
# ffmpeg also looks for boxes in descriptions of samples, where real files have no tables.
_TABLES = re.compile(rb"stsz|stz2|trun")
MOST_DESCRIPTION_BYTES = 1 << 20
# Common encryption, and Apple's.
_ENCRYPTION = re.compile(rb"encv|drmi")
ENCRYPTED = "video is encrypted, and cannot be decoded without its key"
# What a handler makes of a track.
_MEDIA = (b"vide", b"soun", b"subp", b"clcp")
# Enough of a table for its counts, in bytes.
_TABLE_BYTES = 16
# Demuxers read uncompressed sound, of which each sample lasts a tick, by this many.
_SAMPLES_A_PACKET = 1024
# Four hours in fragments of a second have 0.1 million.
_MOST_BOXES = 1_000_000


def check_samples(source: Path) -> None:
    """Raises MediaError: more samples in all or boxes than the most; encrypted or compressed."""
    samples = 0
    tracks: list[_Track] = []
    with source.open("rb") as file:
        for number, (kind, table) in enumerate(_walk(file, source.stat().st_size)):
            if number >= _MOST_BOXES:
                raise MediaError(f"video has more than {_MOST_BOXES:,} boxes", over_limit=True)
            if kind == b"cmov":
                raise MediaError("video has a compressed index, which is not supported")
            if kind == b"trak":
                tracks.append(_Track())
            elif kind == b"trun":
                samples += _number(table, 4)
            elif tracks:
                tracks[-1].add(kind, table)
    if samples + sum(track.packets for track in tracks) > MOST_SAMPLES:
        raise MediaError(f"video has more than {MOST_SAMPLES:,} samples", over_limit=True)


@dataclass
class _Track:
    """May have several tables of a kind; the demuxer decides which one holds."""

    samples: int = 0
    handlers: set[bytes] = field(default_factory=set)
    # Of each table of times: entries, and the ticks that a sample of the first lasts.
    times: set[tuple[int, int]] = field(default_factory=set)

    def add(self, kind: bytes, table: bytes) -> None:
        if kind in (b"stsz", b"stz2"):
            self.samples = max(self.samples, _number(table, 8))
        elif kind == b"stts":
            self.times.add((_number(table, 4), _number(table, 12)))
        # QuickTime has a second handler, of the data.
        elif kind == b"hdlr" and table[8:12] in _MEDIA:
            self.handlers.add(table[8:12])

    @property
    def packets(self) -> int:
        is_uncompressed_sound = self.handlers == {b"soun"} and self.times == {(1, 1)}
        return self.samples // (_SAMPLES_A_PACKET if is_uncompressed_sound else 1)


def _number(table: bytes, offset: int) -> int:
    return int.from_bytes(table[offset : offset + 4], "big")


def _walk(file: BinaryIO, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Each box with its first bytes; of containers, the content, up to the first damaged box."""
    # Where each container begun ends: a file can nest more of them than Python can recurse.
    ends = [end]
    start = 0
    while ends:
        if start + _HEADER.size > ends[-1]:
            start = ends.pop()
            continue
        file.seek(start)
        size, kind = _HEADER.unpack(file.read(_HEADER.size))
        body = start + _HEADER.size
        if size == 1:
            (size,) = _LARGE_SIZE.unpack(file.read(_LARGE_SIZE.size).ljust(_LARGE_SIZE.size, b"\0"))
            body += _LARGE_SIZE.size
        # Size 0: to the end.
        box_end = min(start + size, ends[-1]) if size else ends[-1]
        if box_end < body:
            start = ends.pop()
            continue
        table = file.read(_TABLE_BYTES)
        yield kind, table
        if kind == b"stsd":
            # All of it, and so none of the boxes in it, of which some may be named `stsd` too.
            _check_description(file, body, box_end)
            start = box_end
        elif kind in _CONTAINERS or table[4:8] in _INDEX_BEGINNINGS:
            ends.append(box_end)
            # Some of these have a version first.
            start = body + (4 if kind == b"meta" and table[4:8] != b"hdlr" else 0)
        else:
            start = box_end


def _check_description(file: BinaryIO, start: int, end: int) -> None:
    file.seek(start)
    description = file.read(min(end - start, MOST_DESCRIPTION_BYTES))
    if end - start > MOST_DESCRIPTION_BYTES or _TABLES.search(description):
        raise MediaError("video's descriptions of samples are too large", over_limit=True)
    if _ENCRYPTION.search(description):
        raise MediaError(ENCRYPTED)
