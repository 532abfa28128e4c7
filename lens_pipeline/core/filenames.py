"""Names of files that people chose, made safe to store and to offer. No paths."""

import re
import unicodedata

# The limit of file systems, in UTF-8.
MOST_BYTES = 255
# Separators, and marks of direction, which show `exe.4pm` as `mp4.exe`.
_HARMFUL = re.compile("[/\\\\\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]")


def safe_name(name: str, most_bytes: int) -> str:
    """May be empty."""
    kept = "".join("_" if _is_control(one) else one for one in _HARMFUL.sub("_", name))
    kept = kept.strip().lstrip(".")
    return kept.encode()[:most_bytes].decode(errors="ignore")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
