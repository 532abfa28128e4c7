"""What a file is, by its first bytes: names and content types of strangers' files prove nothing."""

import re
from pathlib import Path

from lens_pipeline.media.errors import MediaError

_HEAD_BYTES = 64


def read_head(source: Path) -> bytes:
    """The first bytes of `source`.

    Raises MediaError: the file is empty.
    """
    with source.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise MediaError("empty file")
    return head


def quote_head(head: bytes) -> str:
    """The start of a file for an error message: its first tag if it is markup, or 16 bytes."""
    head = head.lstrip()
    tag = re.match(rb"<[^>]{1,40}>", head)
    return repr(tag.group() if tag else head[:16]).removeprefix("b")
