"""Ranges and conditions of every sort, well-formed and not."""

import datetime as dt

import pytest

from lens_pipeline.storage.object_store import ObjectInfo
from lens_pipeline.web.http.conditional import Part, Verdict, decide, http_date, parse_range

MODIFIED = dt.datetime(2026, 3, 1, 12, 0, 0, 400_000, tzinfo=dt.UTC)
INFO = ObjectInfo("m.mp4", 1000, MODIFIED, "abc-1")
WHOLE = Part(0, 1000, whole=True)
SOME = Part(0, 100, whole=False)
SECOND = dt.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 1000),
        ("bytes=0-999", 0, 1000),
        ("bytes=0-1000", 0, 1000),
        ("bytes=999-", 999, 1000),
        ("bytes=200-299", 200, 300),
        ("bytes=-1", 999, 1000),
        ("bytes=-1000", 0, 1000),
        ("bytes=-5000", 0, 1000),
        ("BYTES=5-9", 5, 10),
        ("bytes= 5-9 ", 5, 10),
        ("bytes=0005-009", 5, 10),
        (f"bytes=5-{'9' * 5000}", 5, 1000),
        (f"bytes=-{'9' * 5000}", 0, 1000),
    ],
)
def test_one_range(text: str, start: int, end: int) -> None:
    """Players seek by these; one byte too many or few is a broken picture."""
    assert parse_range(text, 1000) == Part(start, end, whole=False)


@pytest.mark.parametrize(
    "text",
    ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=-000", f"bytes={'9' * 5000}-"],
)
def test_a_range_that_begins_behind_the_end(text: str) -> None:
    """A player that asks for more of what has become shorter must be told."""
    assert parse_range(text, 1000) is Verdict.UNSATISFIABLE


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_no_range_of_nothing_can_be_given(text: str) -> None:
    assert parse_range(text, 0) is Verdict.UNSATISFIABLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "bytes=1",
        "bytes=a-b",
        "bytes=5-4",
        "bytes=1-2-3",
        "bytes=0x0-0x9",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=1 - 2",
        "bytes=0-1,",
        "bytes=,0-1",
        "bytes=0-1,3-4",
        "bytes=0-,0-,0-,0-",
        "bytes 0-1",
        "bytes: 0-1",
        "bytes=0-1\n",
        "items=0-1",
        "octets=0-1",
        "none",
        "bytes=\u0660-\u0669",
        "bytes=1_0-2_0",
        "bytes=" + "0-," * 10_000,
    ],
)
def test_a_malformed_or_multiple_range_is_as_if_it_were_not_there(text: str) -> None:
    """RFC 9110, 14.2: what is invalid is ignored; several ranges are a way to multiply traffic."""
    assert parse_range(text, 1000) is None
    assert decide("GET", {"range": text}, INFO) == WHOLE


def test_a_range_has_no_meaning_for_head() -> None:
    assert decide("HEAD", {"range": "bytes=0-99"}, INFO) == WHOLE
    assert decide("HEAD", {"range": "bytes=5000-"}, INFO) == WHOLE


@pytest.mark.parametrize(
    ("validator", "expected"),
    [
        ('"abc-1"', SOME),
        ('W/"abc-1"', WHOLE),
        ('"other"', WHOLE),
        ("abc-1", WHOLE),
        (http_date(MODIFIED), SOME),
        (http_date(MODIFIED - SECOND), WHOLE),
        (http_date(MODIFIED + SECOND), WHOLE),
        ("nonsense", WHOLE),
        ("", WHOLE),
    ],
)
def test_a_download_goes_on_only_with_the_same_version(validator: str, expected: Part) -> None:
    """Half of one file and half of another is no video."""
    assert decide("GET", {"range": "bytes=0-99", "if-range": validator}, INFO) == expected


def test_the_time_of_a_file_that_has_just_changed_proves_nothing() -> None:
    """It may change again within the second that Last-Modified can tell apart."""
    now = dt.datetime.now(dt.UTC)
    headers = {"range": "bytes=0-99", "if-range": http_date(now)}
    assert decide("GET", headers, ObjectInfo("m", 1000, now, "a")) == WHOLE


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"if-none-match": '"abc-1"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": 'W/"abc-1"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": '"x", "abc-1" , "y"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": '"a,b","abc-1"'}, Verdict.NOT_MODIFIED),
        ({"if-none-match": "*"}, Verdict.NOT_MODIFIED),
        ({"if-none-match": '"abc"'}, WHOLE),
        ({"if-none-match": "abc-1"}, WHOLE),
        ({"if-none-match": ""}, WHOLE),
        ({"if-modified-since": http_date(MODIFIED)}, Verdict.NOT_MODIFIED),
        ({"if-modified-since": http_date(MODIFIED - SECOND)}, WHOLE),
        ({"if-modified-since": "yesterday"}, WHOLE),
        # Of more than a number can hold.
        ({"if-modified-since": f"Sun, 01 Mar {'9' * 20} 12:00:00 GMT"}, WHOLE),
        ({"if-modified-since": f"Sun, 01 Mar 2026 12:00:00 +{'9' * 20}"}, WHOLE),
        ({"if-modified-since": "Mon, 99 Zzz 2026 99:99:99 GMT"}, WHOLE),
        # A tag is asked before a time.
        ({"if-none-match": '"x"', "if-modified-since": http_date(MODIFIED)}, WHOLE),
        ({"if-none-match": '"abc-1"', "range": "bytes=0-1"}, Verdict.NOT_MODIFIED),
        ({"if-match": '"abc-1"'}, WHOLE),
        ({"if-match": "*"}, WHOLE),
        ({"if-match": '"x"'}, Verdict.FAILED),
        ({"if-match": 'W/"abc-1"'}, Verdict.FAILED),
        ({"if-unmodified-since": http_date(MODIFIED)}, WHOLE),
        ({"if-unmodified-since": http_date(MODIFIED - SECOND)}, Verdict.FAILED),
    ],
)
def test_conditions(headers: dict[str, str], expected: Part | Verdict) -> None:
    """A browser that shows an old picture for ever, or loads the same one each time."""
    assert decide("GET", headers, INFO) == expected
    if headers.get("range") is None:
        assert decide("HEAD", headers, INFO) == expected
