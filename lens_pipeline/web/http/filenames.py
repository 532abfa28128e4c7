"""File names of downloads."""

import re
import unicodedata
from collections import Counter
from pathlib import PurePosixPath
from urllib.parse import quote

from lens_pipeline.catalog.generations import ListedGeneration
from lens_pipeline.storage.content_types import CONTENT_TYPES

# The limit of file systems, in UTF-8.
_MOST_BYTES = 255
# Separators, and marks of direction, which show `exe.4pm` as `mp4.exe`.
_HARMFUL = re.compile("[/\\\\\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]")
# RFC 5987, attr-char.
_UNQUOTED = "!#$&+-.^_`|~"
# Windows forbids these in names, and a dot or space at the end of one.
_FORBIDDEN = re.compile(r'[<>:"|?*]')


def generation_name(row: ListedGeneration, n: int = 1) -> str:
    """Of result `n` of its task, without the ending."""
    return row.id if n == 1 else f"{row.id}_{n}"


def known_ending(path: str) -> str:
    """In lower case with its dot; empty for formats that are no media: they could be programs."""
    ending = PurePosixPath(path).suffix.lower()
    return ending if ending in CONTENT_TYPES else ""


def attachment(name: str, ending: str, *, inline: bool = False) -> str:
    """A Content-Disposition (RFC 6266) for `name` + `ending`, which is safe ASCII.

    `inline`: the browser shows it, and has the name if a person saves it.
    """
    room = _MOST_BYTES - len(ending)
    whole = f"{_safe(name, room)}{ending}"
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
        room = _MOST_BYTES - len(ending) - len(" (100000)")
        stem = _FORBIDDEN.sub("_", _safe(unicodedata.normalize("NFC", name), room))
        first = path = f"{folder}{stem.rstrip('. ') or '_'}{ending}"
        while path.casefold() in self._taken:
            self._repeated[first] += 1
            stem = first.removesuffix(ending)
            path = f"{stem} ({self._repeated[first] + 1}){ending}"
        self._taken.add(path.casefold())
        return path


def _safe(name: str, most_bytes: int) -> str:
    kept = "".join("_" if _is_control(one) else one for one in _HARMFUL.sub("_", name))
    kept = kept.strip().lstrip(".")
    return kept.encode()[:most_bytes].decode(errors="ignore")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
