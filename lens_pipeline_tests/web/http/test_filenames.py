"""Names of downloads, whatever people call their films."""

import re
from urllib.parse import unquote

import pytest

from lens_pipeline.web.http.filenames import EntryNames, attachment

ENDING = "_m1.mp4"


def _names(header: str) -> tuple[str, str]:
    """The fallback and the real name, as clients of RFC 6266 read them."""
    match = re.fullmatch(r"attachment; filename=\"([^\"\\]*)\"; filename\*=UTF-8''(\S+)", header)
    assert match, header
    return match[1], unquote(match[2], errors="strict")


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("Holiday", "Holiday_m1.mp4"),
        ("My film (2)", "My film (2)_m1.mp4"),
        ("Фильм для жизни", "Фильм для жизни_m1.mp4"),
        ("夏休み", "夏休み_m1.mp4"),
        ("🎬 film 👩‍👩‍👧", "🎬 film 👩‍👩‍👧_m1.mp4"),
        ('say "hi"', 'say "hi"_m1.mp4'),
        ("100% 'real'*", "100% 'real'*_m1.mp4"),
        ("a;b=c,d", "a;b=c,d_m1.mp4"),
        ("../../etc/passwd", "_.._etc_passwd_m1.mp4"),
        ("C:\\Windows\\x", "C:_Windows_x_m1.mp4"),
        ("...", "_m1.mp4"),
        ("", "_m1.mp4"),
        ("a\r\nSet-Cookie: b=c", "a__Set-Cookie: b=c_m1.mp4"),
        ("a\0b\x7fc\x85d\u2028e", "a_b_c_d_e_m1.mp4"),
        ("gpj.\u202eexe", "gpj._exe_m1.mp4"),
        ("\u2066a\u2069\u200f", "_a___m1.mp4"),
    ],
)
def test_any_name_becomes_one_that_can_be_saved(name: str, saved: str) -> None:
    """Headers of somebody else's making, files elsewhere, programs that look like films."""
    header = attachment(name, ENDING)
    assert header.isascii() and header.isprintable()
    fallback, whole = _names(header)
    assert whole == saved
    assert fallback.endswith(ENDING)
    assert re.fullmatch(r"[A-Za-z0-9 ._()-]+", fallback)


def test_an_ascii_name_is_the_same_for_old_clients() -> None:
    assert _names(attachment("My film", ENDING)) == ("My film_m1.mp4", "My film_m1.mp4")


@pytest.mark.parametrize("name", ["я" * 200, "🎬" * 200, "x" * 5000])
def test_a_long_name_fits_into_a_file_system(name: str) -> None:
    """A download that cannot be saved because its name has 800 bytes."""
    _, whole = _names(attachment(name, "_" + "i" * 128 + ".mp4"))
    assert 200 < len(whole.encode()) <= 255
    assert whole.endswith("i.mp4")


def test_names_within_an_archive() -> None:
    """A second file that replaces the first where it is unpacked, or lies elsewhere."""
    names = EntryNames()
    wanted = ["a", "A", "a (2)", "../a", "..", "", "a\\b:c?", "e\u0301", "\u00e9", "a. ", "x" * 300]
    found = [names.add("films/", name, ".mp4") for name in wanted]
    assert found[:-1] == [
        "films/a.mp4",
        "films/A (2).mp4",
        "films/a (2) (2).mp4",
        "films/_a.mp4",
        "films/_.mp4",
        "films/_ (2).mp4",
        "films/a_b_c_.mp4",
        "films/\u00e9.mp4",
        "films/\u00e9 (2).mp4",
        "films/a (3).mp4",
    ]
    assert len(found[-1].removeprefix("films/").encode()) < 255
