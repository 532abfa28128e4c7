"""File names of downloads."""

import re
import unicodedata
from pathlib import PurePosixPath
from urllib.parse import quote

from lens_pipeline.catalog.generations import ListedGeneration
from lens_pipeline.core.filenames import MOST_BYTES, safe_name
from lens_pipeline.storage.content_types import CONTENT_TYPES

# RFC 5987, attr-char.
_UNQUOTED = "!#$&+-.^_`|~"


def generation_name(row: ListedGeneration, n: int = 1) -> str:
    """Of result `n` of its task, without the ending: its title, else its id."""
    title = row.title or row.id
    name = title[: len(title) - len(known_ending(title))]
    return name if n == 1 else f"{name}_{n}"


def known_ending(path: str) -> str:
    """In lower case with its dot; empty for formats that are no media: they could be programs."""
    ending = PurePosixPath(path).suffix.lower()
    return ending if ending in CONTENT_TYPES else ""


def attachment(name: str, ending: str, *, inline: bool = False) -> str:
    """A Content-Disposition (RFC 6266) for `name` + `ending`, which is safe ASCII.

    `inline`: the browser shows it, and has the name if a person saves it.
    """
    whole = f"{safe_name(name, MOST_BYTES - len(ending))}{ending}"
    fallback = unicodedata.normalize("NFKD", whole).encode("ascii", "replace").decode()
    fallback = re.sub(r"[^A-Za-z0-9 ._()-]", "_", fallback)
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{quote(whole, safe=_UNQUOTED)}"
