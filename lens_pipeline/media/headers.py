"""What headers of pictures say and libvips does not tell: colours by number, GIF's first frame."""

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from lens_pipeline.media.formats import child_boxes

# Bytes of the box that describes an AVIF or HEIC file; of a thousand tiles it has 50 KB.
_META_LIMIT = 1 << 20
_BOX = struct.Struct(">I4s")
_PNG_SIGNATURE_BYTES = 8
_CRC_BYTES = 4
# What changes a PNG's pixels; all else may be left out.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT", b"IEND"})

_HEADER_ERRORS = (KeyError, IndexError, struct.error)


class Colors(NamedTuple):
    """`primaries` and `transfer` by the numbers of ITU-T H.273; 2: not given."""

    primaries: int = 2
    transfer: int = 2


def png_colors(source: Path) -> Colors:
    """As cICP says, which goes before a profile."""
    with source.open("rb") as file:
        file.seek(_PNG_SIGNATURE_BYTES)
        while len(header := file.read(_BOX.size)) == _BOX.size:
            size, kind = _BOX.unpack(header)
            if kind == b"cICP":
                data, crc = file.read(4), file.read(_CRC_BYTES)
                if size != 4 or zlib.crc32(kind + data).to_bytes(_CRC_BYTES) != crc:
                    break
                return Colors(data[0], data[1])
            if kind == b"IDAT":
                break
            file.seek(size + _CRC_BYTES, os.SEEK_CUR)
    return Colors()


def plain_png(data: bytes) -> bytes:
    """`data` without the chunks that change no pixel."""
    plain, start = [data[:_PNG_SIGNATURE_BYTES]], _PNG_SIGNATURE_BYTES
    while len(header := data[start : start + _BOX.size]) == _BOX.size:
        size, kind = _BOX.unpack(header)
        end = start + _BOX.size + size + _CRC_BYTES
        if kind in _PNG_CHUNKS:
            plain.append(data[start:end])
        start = end
    return b"".join(plain)


def gif_first_frame(source: Path) -> tuple[int, int, int, int] | None:
    """Its left, top, width and height; None: it is not where it must be."""
    with source.open("rb") as file:
        packed = file.read(13)[10]
        if packed & 0x80:
            file.seek(3 << ((packed & 7) + 1), os.SEEK_CUR)
        while (block := file.read(1)) == b"!":
            file.seek(1, os.SEEK_CUR)
            while (size := file.read(1)) not in (b"", b"\0"):
                file.seek(size[0], os.SEEK_CUR)
        frame = file.read(8)
    return struct.unpack("<4H", frame) if block == b"," and len(frame) == 8 else None


def heif_colors(source: Path) -> Colors:
    """Of the picture that an AVIF or HEIC file shows, as `nclx` says; a profile goes before it.

    What is damaged counts as absent.
    """
    try:
        properties = _primary_properties(_meta(source))
        colors = [content for kind, content in properties if kind == b"colr"]
        if [content[:4] for content in colors] != [b"nclx"]:
            return Colors()
        return Colors(*struct.unpack_from(">HH", colors[0], 4))
    except _HEADER_ERRORS:
        return Colors()


def is_grey(source: Path) -> bool:
    """Whether the picture that an AVIF file shows has one channel."""
    try:
        properties = _primary_properties(_meta(source))
        # The number of channels, or AV1's own flag.
        return any(
            (kind == b"pixi" and content[4] == 1) or (kind == b"av1C" and content[2] & 0x10)
            for kind, content in properties
        )
    except _HEADER_ERRORS:
        return False


def _meta(source: Path) -> dict[bytes, bytes]:
    """Its boxes. Raises KeyError: there is none."""
    with source.open("rb") as file:
        while len(header := file.read(_BOX.size)) == _BOX.size:
            size, kind = _BOX.unpack(header)
            if size < _BOX.size:
                break
            if kind == b"meta":
                return dict(child_boxes(file.read(min(size, _META_LIMIT) - _BOX.size)[4:]))
            file.seek(size - _BOX.size, os.SEEK_CUR)
    raise KeyError(b"meta")


def _primary_properties(meta: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Raises one of `_HEADER_ERRORS`."""
    primary = int.from_bytes(meta[b"pitm"][4:])
    boxes = dict(child_boxes(meta[b"iprp"]))
    properties = list(child_boxes(boxes[b"ipco"]))
    associations = boxes[b"ipma"]
    id_bytes = 4 if associations[0] else 2
    index_bytes = 2 if associations[3] & 1 else 1
    # The highest bit says that a property is essential.
    mask = (1 << (8 * index_bytes - 1)) - 1
    start = 8
    for _ in range(int.from_bytes(associations[4:8])):
        item = int.from_bytes(associations[start : start + id_bytes])
        count = associations[start + id_bytes]
        start += id_bytes + 1
        end = start + count * index_bytes
        if item == primary:
            indices = range(start, end, index_bytes)
            numbers = (int.from_bytes(associations[i : i + index_bytes]) & mask for i in indices)
            return [properties[number - 1] for number in numbers if number]
        start = end
    raise KeyError(primary)
