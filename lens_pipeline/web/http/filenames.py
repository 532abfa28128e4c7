"""File names of downloads."""

import re
import unicodedata
from collections import Counter
from pathlib import PurePosixPath
from urllib.parse import quote

from lens_pipeline.catalog.generations import ListedGeneration
from lens_pipeline.core.filenames import MOST_BYTES, safe_name
from lens_pipeline.storage.content_types import CONTENT_TYPES

# RFC 5987, attr-char.
_UNQUOTED = "!#$&+-.^_`|~"
# Windows forbids these in names, and a dot or space at the end of one.
_FORBIDDEN = re.compile(r'[<>:"|?*]')


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


class EntryNames:
    """Paths within an archive: none comes twice, also where neither case nor form counts."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._repeated = Counter[str]()

    def add(self, folder: str, name: str, ending: str = "") -> str:
        """`folder` and `ending` are safe ASCII."""
        room = MOST_BYTES - len(ending) - len(" (100000)")
        stem = _FORBIDDEN.sub("_", safe_name(unicodedata.normalize("NFC", name), room))
        first = path = f"{folder}{stem.rstrip('. ') or '_'}{ending}"
        while path.casefold() in self._taken:
            self._repeated[first] += 1
            stem = first.removesuffix(ending)
            path = f"{stem} ({self._repeated[first] + 1}){ending}"
        self._taken.add(path.casefold())
        return path
