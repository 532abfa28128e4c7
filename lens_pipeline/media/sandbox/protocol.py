"""Messages between the sandbox and its workers: a JSON header and raw bytes.

JSON, since a decoder that was taken over could answer with a pickle that runs code here.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

# Header and body lengths, bytes.
_LENGTHS = struct.Struct(">II")
# A worker that answers with more is broken: a header is some fields, a body two pictures of at
# most 16383 x 16383 pixels, in practice below 1 MB.
_HEADER_LIMIT = 64 * 1024
_BODY_LIMIT = 64 * 1024 * 1024

Header = dict[str, Any]


class ProtocolError(Exception):
    """The other side sent something that is no message."""


def pack(header: Header, body: bytes = b"") -> bytes:
    """One message as bytes."""
    text = json.dumps(header).encode("ascii")
    return _LENGTHS.pack(len(text), len(body)) + text + body


def receive(read: Callable[[int], bytes]) -> tuple[Header, bytes]:
    """Read one message with `read`, which returns exactly as many bytes as asked for.

    Raises ProtocolError: a message is too long or its header is no JSON object.
    """
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
