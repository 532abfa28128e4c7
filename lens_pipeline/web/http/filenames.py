"""File names of downloads."""

import re
import unicodedata
from urllib.parse import quote

# The limit of file systems, in UTF-8.
_MOST_BYTES = 255
# Separators, and marks of direction, which show `exe.4pm` as `mp4.exe`.
_HARMFUL = re.compile("[/\\\\\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]")
# RFC 5987, attr-char.
_UNQUOTED = "!#$&+-.^_`|~"


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


def _safe(name: str, most_bytes: int) -> str:
    kept = "".join("_" if _is_control(one) else one for one in _HARMFUL.sub("_", name))
    kept = kept.strip().lstrip(".")
    return kept.encode()[:most_bytes].decode(errors="ignore")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
