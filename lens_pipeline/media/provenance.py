"""Marks finished files with how they came to be, as IPTC wants it of media made by AI: in XMP."""

import struct
from pathlib import Path

from lens_pipeline.media.errors import explain_disk_full

# https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' Iptc4xmpExt:DigitalSourceType="{code}"/>'
    "</rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)
# Of a `uuid` box with XMP: ISO 16684-3.
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
# Of the chunk VP8X: https://developers.google.com/speed/webp/docs/riff_container
_HAS_XMP = 0x04


def marked_webp(webp: bytes, source_type: str | None) -> bytes:
    """A lossy WebP without XMP that tells its `source_type`; None: `webp` as it is.

    Raises ValueError: `webp` is something else.
    """
    if source_type is None:
        return webp
    kind, body = webp[12:16], webp[12:]
    if kind == b"VP8X":
        body = body[:8] + bytes([body[8] | _HAS_XMP]) + body[9:]
    elif kind == b"VP8 ":
        # Of the frame header; the two high bits are of scaling.
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 14))
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = _chunk(b"VP8X", bytes([_HAS_XMP, 0, 0, 0]) + size) + body
    else:
        raise ValueError(f"not a lossy WebP: its first chunk is {kind!r}")
    body += _chunk(b"XMP ", _xmp(source_type))
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def mark_mp4(file: Path, source_type: str | None) -> None:
    """Append its `source_type`, which players skip; None: do nothing. Raises DiskFull."""
    if source_type is None:
        return
    xmp = _XMP_BOX + _xmp(source_type)
    with explain_disk_full(), file.open("ab") as stream:
        stream.write(struct.pack(">I4s", 8 + len(xmp), b"uuid") + xmp)


def _xmp(source_type: str) -> bytes:
    return _XMP.format(code=SOURCE_TYPES + source_type).encode()


def _chunk(kind: bytes, payload: bytes) -> bytes:
    padding = b"\0" * (len(payload) % 2)
    return struct.pack("<4sI", kind, len(payload)) + payload + padding
