"""Conditional and range requests, RFC 9110, 13 and 14. Pure: headers in, decisions out."""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import format_datetime, parsedate_to_datetime
from enum import Enum, auto

from lens_pipeline.storage.object_store import ObjectInfo

_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*", re.ASCII | re.IGNORECASE)
# Beyond any file, and within Python's limit for `int`.
_MOST_DIGITS = 18
_TAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
# A file may change again within the second of its Last-Modified.
_SETTLED = dt.timedelta(seconds=2)


class Verdict(Enum):
    NOT_MODIFIED = auto()
    FAILED = auto()
    """A precondition does not hold."""
    UNSATISFIABLE = auto()


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes from `start` up to, without, `end`."""

    start: int
    end: int
    whole: bool


def entity_tag(info: ObjectInfo) -> str:
    return f'"{info.etag}"'


def http_date(moment: dt.datetime) -> str:
    return format_datetime(moment.astimezone(dt.UTC), usegmt=True)


def decide(method: str, headers: Mapping[str, str], info: ObjectInfo) -> Part | Verdict:
    """The answer to a GET or HEAD; `headers` have names in lower case."""
    if (verdict := _precondition(headers, info)) is not None:
        return verdict
    whole = Part(0, info.bytes, whole=True)
    wanted = headers.get("range")
    # Ranges are defined for GET only.
    if wanted is None or method != "GET" or not _if_range(headers.get("if-range"), info):
        return whole
    return parse_range(wanted, info.bytes) or whole


def parse_range(text: str, size: int) -> Part | Verdict | None:
    """None: malformed, another unit, or several ranges, which could repeat bytes many times."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        length = min(_number(suffix), size)
        return Part(size - length, size, whole=False) if length else Verdict.UNSATISFIABLE
    start = _number(first)
    end = _number(last) + 1 if last else size
    if end <= start and last:
        return None
    if start >= size:
        return Verdict.UNSATISFIABLE
    return Part(start, min(end, size), whole=False)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _precondition(headers: Mapping[str, str], info: ObjectInfo) -> Verdict | None:
    """RFC 9110, 13.2.2."""
    tag = entity_tag(info)
    wanted = headers.get("if-match")
    since = _date(headers.get("if-unmodified-since")) if wanted is None else None
    if wanted is not None and wanted.strip() != "*" and tag not in _TAGS.findall(wanted):
        return Verdict.FAILED
    if since is not None and _seconds(info.modified) > since:
        return Verdict.FAILED
    if (known := headers.get("if-none-match")) is not None:
        tags = {found.removeprefix("W/") for found in _TAGS.findall(known)}
        return Verdict.NOT_MODIFIED if known.strip() == "*" or tag in tags else None
    since = _date(headers.get("if-modified-since"))
    if since is not None and _seconds(info.modified) <= since:
        return Verdict.NOT_MODIFIED
    return None


def _if_range(validator: str | None, info: ObjectInfo) -> bool:
    if validator is None or validator.strip() == entity_tag(info):
        return True
    moment = _date(validator)
    settled = dt.datetime.now(dt.UTC) - info.modified >= _SETTLED
    return moment is not None and moment == _seconds(info.modified) and settled


def _seconds(moment: dt.datetime) -> dt.datetime:
    return moment.astimezone(dt.UTC).replace(microsecond=0)


def _date(text: str | None) -> dt.datetime | None:
    """None: there is none, or a malformed one, which RFC 9110 ignores."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
