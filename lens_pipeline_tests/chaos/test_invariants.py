"""The judge of `make chaos` sees what is wrong: each rule with something that breaks it."""

from collections import Counter
from dataclasses import replace

import pytest

from lens_pipeline_tests.chaos.invariants import (
    TOO_OFTEN,
    Record,
    Standing,
    made_too_often,
    orphan_objects,
    wrong_objects,
    wrong_standings,
)
from lens_pipeline_tests.chaos.workload import Expected
from lens_pipeline_tests.media.samples import encoded, texture
from lens_pipeline_tests.support import sources

GOOD, BAD = Expected("photo"), Expected("photo", frozenset({"SourceMissing"}))
WEBP = encoded(texture(60, 40), "WEBP", quality=80)
PICTURE = Record("preview", "a", "u/previews/a_preview.webp", len(WEBP), 60, 40, "r1")


def photo(state: str, error_class: str | None = None) -> Standing:
    return Standing("preview", "a", state, error_class)


@pytest.mark.parametrize(
    ("row", "standing"),
    [
        (GOOD, photo("none")),
        (GOOD, photo("processing")),
        (GOOD, photo("failed", "SourceUnavailable")),
        (GOOD, photo("dead", "SourceUnreadable")),
        (BAD, photo("ready")),
        (BAD, photo("failed", "SourceMissing")),
        (BAD, photo("dead", "SourceUnavailable")),
        (GOOD, Standing("preview", "another", "ready")),
    ],
)
def test_a_wrong_state_or_reason_is_seen(row: Expected, standing: Standing) -> None:
    """A row that waits for ever, or a good file that is called a bad one."""
    (wrong,) = wrong_standings({"a": row}, [standing], forgive=TOO_OFTEN)
    assert "preview of a" in wrong


def test_right_states_are_right() -> None:
    """A judge that is never content."""
    assert wrong_standings({"a": GOOD}, [photo("ready")]) == []
    assert wrong_standings({"a": BAD}, [photo("dead", "SourceMissing")]) == []
    tired = photo("dead", "SourceUnavailable")
    assert wrong_standings({"a": GOOD}, [tired], forgive=TOO_OFTEN) == []
    assert wrong_standings({"a": GOOD}, [tired]) != []


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (PICTURE, None),
        (PICTURE, WEBP[:-10]),
        (replace(PICTURE, bytes=len(WEBP) - 10), WEBP[:-10]),
        (PICTURE, bytes(len(WEBP))),
        (replace(PICTURE, width=61), WEBP),
    ],
    ids=["absent", "torn", "torn and recorded so", "zeros", "another size"],
)
def test_an_object_that_is_not_whole_is_seen(record: Record, body: bytes | None) -> None:
    """Half a picture under its final key."""
    objects = {} if body is None else {record.path: body}
    (wrong,) = wrong_objects([record], objects)
    assert record.path in wrong


def test_a_film_that_ends_early_is_seen() -> None:
    """A master that lost its last shot, and plays without an error."""
    body = sources.mp4()
    film = Record("master_video", "m", "m.mp4", len(body), 160, 120, "r1", 1.0)
    assert wrong_objects([film], {"m.mp4": body}) == []
    (wrong,) = wrong_objects([replace(film, duration_seconds=2.0)], {"m.mp4": body})
    assert "lasts 1.00 s" in wrong


def test_an_object_of_nobody_is_seen() -> None:
    """A store that fills with what no row knows."""
    originals = [f"u/originals/{row}_0123456789ab.jpg" for row in ("a", "b")]
    keys = [PICTURE.path, "cache/shots/1.mp4", "masters/p/master_m_old.mp4", *originals]
    orphans = ["masters/p/master_m_old.mp4", originals[1]]
    wrong = [f"{key} belongs to no row" for key in orphans]
    assert orphan_objects([PICTURE], keys, {"a"}) == wrong


def test_an_output_that_was_made_twice_is_seen() -> None:
    """Two runs that made one file, unless one of them was broken off."""
    made = {("preview", "a", "r1"): 2, ("preview", "a", "r2"): 1}
    assert len(made_too_often(made, Counter())) == 1
    assert made_too_often(made, Counter({("preview", "a"): 1})) == []
