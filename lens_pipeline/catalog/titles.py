"""Titles of rows for people, and the search for them."""

import re
from urllib.parse import quote, unquote

import sqlalchemy as sa

# A host's column may hold whole prompts.
_MOST_CHARACTERS = 200
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,3}$")
_QUERY = re.compile("[?#]")
# Around what is looked for in the last part of an address.
_BEFORE, _BEHIND = "^[^?#]*", "[^/?#]*(?:[?#].*)?$"


def title_of(row_id: str, named: str | None, asset_url: str) -> str | None:
    """`named`, from the host's column, else the file's name without extension; None: neither."""
    words = " ".join((named or "").split())
    title = words or _EXTENSION.sub("", file_name(asset_url))
    return title[:_MOST_CHARACTERS] if title and title != row_id else None


def file_name(asset_url: str) -> str:
    """The last part of a web address or an object key; may be empty."""
    if "://" not in asset_url:
        return asset_url.rpartition("/")[2].strip()
    parts = _QUERY.split(asset_url, maxsplit=1)[0].split("/")[3:]
    return " ".join(unquote(parts[-1] if parts else "").split())


def has_words(text: str, *titles: sa.ColumnElement, address: sa.ColumnElement) -> sa.ColumnElement:
    """Whether a title or the file's name in `address` has `text`, in capitals or not."""
    pattern = pattern_of(text)
    conditions = [title.regexp_match(pattern) for title in titles]
    return sa.or_(*conditions, address.regexp_match(_BEFORE + pattern + _BEHIND))


def pattern_of(text: str) -> str:
    """A regular expression that finds `text`, also encoded in an address.

    It spells out capitals: a database with the locale C knows those of ASCII alone.
    """
    return "".join(_forms(character) for character in text)


def _forms(character: str) -> str:
    plain = {character, character.lower(), character.upper()}
    forms = plain | {quote(form, errors="replace") for form in plain}
    return f"(?:{'|'.join(re.escape(form) for form in sorted(forms))})"
