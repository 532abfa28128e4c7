"""Recognises files by content: names and content types prove nothing."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from lens_pipeline.media.errors import MediaError

_HEAD_BYTES = 64

# Old files have no `ftyp`.
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_EBML = b"\x1aE\xdf\xa3"
# Size, type, and a 64-bit size.
_BOX = struct.Struct(">I4sQ")
_BOX_HEADER = struct.Struct(">I4s")

# What is kept: also files that no decoder here takes, but no page of markup. By extension, names
# and beginnings.
_PICTURES = {
    ".jpg": ("JPEG", rb"\xff\xd8\xff"),
    ".png": ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ".gif": ("GIF", rb"GIF8[79]a"),
    ".webp": ("WebP", rb"RIFF....WEBP"),
    ".avif": ("AVIF", rb"....ftyp(avi[fs]|mif1.{0,48}avif)"),
    ".heic": ("HEIC", rb"....ftyp(he[iv][cxms]|mif1|msf1)"),
    ".tif": ("TIFF", rb"II\*\0|MM\0\*"),
    ".bmp": ("BMP", rb"BM....\0\0\0\0"),
    ".jxl": ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
}
_VIDEOS = {
    ".mov": ("QuickTime", rb"....(ftypqt  |moov|mdat|wide|free|skip|pnot)"),
    ".mp4": ("MP4", rb"....ftyp(?!M4[AB] )"),
    ".webm": ("WebM", rb"\x1aE\xdf\xa3.{0,48}webm"),
    ".mkv": ("Matroska", rb"\x1aE\xdf\xa3"),
    ".avi": ("AVI", rb"RIFF....AVI "),
    ".ts": ("MPEG-TS", rb"(....)?G@[\0\x11]"),
    ".mpg": ("MPEG-PS", rb"\0\0\x01\xba"),
    ".flv": ("FLV", rb"FLV\x01"),
    ".wmv": ("WMV", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    ".ogv": ("Ogg", rb"OggS"),
}
_NAMES = {extension: name for extension, (name, _) in (_PICTURES | _VIDEOS).items()}
_EXTENSIONS = {
    extension: re.compile(pattern, re.DOTALL)
    for extension, (_, pattern) in (_PICTURES | _VIDEOS).items()
}
_TAKEN_PICTURES = ("JPEG", "PNG", "WebP", "GIF", "AVIF", "HEIC")
_TAKEN_VIDEOS = ("MP4", "QuickTime", "WebM", "Matroska")

# Of cameras, generators and browsers. Other decoders are only attack surface.
VIDEO_CODECS = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores", "h263", "theora", "ffv1"}
)


def read_head(source: Path) -> bytes:
    """Raises MediaError: `source` is empty."""
    with source.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise MediaError("empty file")
    return head


def file_extension(head: bytes) -> str | None:
    """Of a picture or video that begins with `head`; None: it is neither."""
    return next((name for name, kind in _EXTENSIONS.items() if kind.match(head)), None)


def quote_head(head: bytes) -> str:
    """For messages: the first tag of markup, else 16 bytes."""
    head = head.lstrip()
    tag = re.match(rb"<[^>]{1,40}>", head)
    return repr(tag.group() if tag else head[:16]).removeprefix("b")


def picture_kind(head: bytes) -> str:
    """One of JPEG, PNG, WebP, GIF, AVIF and HEIC. Raises MediaError: another kind."""
    extension = file_extension(head)
    if extension in _PICTURES and _NAMES[extension] in _TAKEN_PICTURES:
        return _NAMES[extension]
    raise MediaError(_refusal(head, extension, "picture", "video", _TAKEN_PICTURES))


def is_video(head: bytes) -> bool:
    """Whether it is a video, and no picture.

    Raises MediaError: it is neither, or of a kind that is not supported.
    """
    if file_extension(head) in _PICTURES:
        picture_kind(head)
        return False
    video_demuxer(head)
    return True


def video_demuxer(head: bytes) -> str:
    """The demuxer to force: with a guess, a playlist named .mp4 reads other files.

    Raises MediaError: not an MP4, QuickTime, WebM or Matroska file.
    """
    extension = file_extension(head)
    if head.startswith(_EBML):
        return "matroska"
    if head[4:8] in _MOV_BOXES and extension not in _PICTURES:
        return "mov"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"#EXTM3U"):
        raise MediaError("not a video but a playlist (m3u8)")
    if text.startswith(b"ffconcat"):
        raise MediaError("not a video but a list of files (ffconcat)")
    raise MediaError(_refusal(head, extension, "video", "picture", _TAKEN_VIDEOS))


def _refusal(
    head: bytes, extension: str | None, wanted: str, other: str, taken: tuple[str, ...]
) -> str:
    if extension is None:
        return f"not a {wanted}: starts with {quote_head(head)}"
    if (extension in _PICTURES) != (wanted == "picture"):
        return f"not a {wanted} but a {other}: {_NAMES[extension]}"
    kinds = f"{', '.join(taken[:-1])} and {taken[-1]}"
    return f"{wanted} of a kind that is not supported: {_NAMES[extension]}; taken are {kinds}"


def mp4_boxes(source: Path) -> Iterator[bytes]:
    """Of the top level, up to the first damaged one."""
    return (kind for kind, _ in mp4_boxes_with_end(source))


def ends_in_fragment(source: Path) -> bool:
    """Whether a fragmented MP4, which has no index, is cut off."""
    is_fragmented, last = False, (b"", 0)
    for last in mp4_boxes_with_end(source):
        is_fragmented |= last[0] == b"moof"
    kind, end = last
    return is_fragmented and kind in (b"moof", b"mdat") and end > source.stat().st_size


def mp4_boxes_with_end(source: Path) -> Iterator[tuple[bytes, int]]:
    """Of the top level, up to the first damaged one, with the place after each."""
    file_bytes = source.stat().st_size
    with source.open("rb") as file:
        while len(header := file.read(_BOX.size)) >= _BOX_HEADER.size:
            size, kind, large_size = _BOX.unpack(header.ljust(_BOX.size, b"\0"))
            least = _BOX.size if size == 1 else _BOX_HEADER.size
            size = large_size if size == 1 else size
            yield kind, file.tell() - len(header) + size
            # Size 0: to the end of the file; others are damage.
            if not least <= size <= file_bytes:
                return
            file.seek(size - len(header), os.SEEK_CUR)


def header_error(source: Path, demuxer: str) -> MediaError:
    if demuxer == "mov" and b"moov" not in mp4_boxes(source):
        return MediaError("video is incomplete: it has no index (moov)")
    return MediaError("video is truncated or damaged: its header cannot be read")


def child_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes of 32-bit sizes in a box, to the first damaged one."""
    start = 0
    while start + _BOX_HEADER.size <= len(data):
        size, kind = _BOX_HEADER.unpack_from(data, start)
        if size < _BOX_HEADER.size:
            return
        yield kind, data[start + _BOX_HEADER.size : start + size]
        start += size
