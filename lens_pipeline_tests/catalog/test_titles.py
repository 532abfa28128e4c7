"""Titles of generations, as addresses and columns give them."""

import re

import pytest

from lens_pipeline.catalog.titles import file_name, pattern_of, title_of


@pytest.mark.parametrize(
    ("asset_url", "title"),
    [
        ("me/uploads/1/Летний день.mp4", "Летний день"),
        ("https://h.example/a/My%20film%20%D0%96.mov?token=a/b.png#x", "My film Ж"),
        ("https://h.example/watch?v=beach.mp4", "watch"),
        ("https://h.example", None),
        ("https://h.example/a/", None),
        ("me/uploads/row.jpg", None),
        ("", None),
        ("uploads/take.2", "take.2"),
    ],
)
def test_a_title_is_the_name_of_the_file(asset_url: str, title: str | None) -> None:
    assert title_of("row", None, asset_url) == title


def test_a_column_comes_first() -> None:
    assert title_of("row", " A walk\n by the sea ", "a/b.jpg") == "A walk by the sea"
    assert title_of("row", " ", "a/b.jpg") == "b"
    assert len(title_of("row", "long " * 1000, "a/b.jpg") or "") == 200


@pytest.mark.parametrize(
    "asset_url", ["me/1/Ёлка (1).mp4", "https://h/%D0%81%D0%BB%D0%BA%D0%B0.mp4"]
)
def test_words_are_found_in_capitals_and_in_addresses(asset_url: str) -> None:
    """A search that finds names in ASCII alone."""
    assert re.search(pattern_of("ёлка"), asset_url)
    assert not re.search(pattern_of("елка"), file_name(asset_url))


def test_signs_are_looked_for_as_they_are() -> None:
    assert re.search(pattern_of("(1).*[a]"), "b (1).*[A]")
    assert not re.search(pattern_of("(1).*[a]"), "1a")
