"""Messages of JSON and raw bytes: a pickle from a hijacked decoder would run code here."""

import json
import struct
from collections.abc import Callable
from typing import Any

# Bytes of header and body.
_LENGTHS = struct.Struct(">II")
# A header has a few fields, or the shots of a film; a body two pictures of at most 16383 x 16383
# pixels.
_HEADER_LIMIT = 1024 * 1024
_BODY_LIMIT = 64 * 1024 * 1024

Header = dict[str, Any]


class ProtocolError(Exception):
    pass


def pack(header: Header, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode("ascii")
    return _LENGTHS.pack(len(text), len(body)) + text + body


def receive(read: Callable[[int], bytes]) -> tuple[Header, bytes]:
    """`read` returns as many bytes as asked. Raises ProtocolError: too long, or no JSON object."""
    header_length, body_length = _LENGTHS.unpack(read(_LENGTHS.size))
    if header_length > _HEADER_LIMIT or body_length > _BODY_LIMIT:
        raise ProtocolError(f"a message of {header_length} + {body_length} bytes is too long")
    try:
        header = json.loads(read(header_length))
    except ValueError as error:
        raise ProtocolError("a message has a header that is no JSON") from error
    if not isinstance(header, dict):
        raise ProtocolError("a message has a header that is no object")
    return header, read(body_length)
