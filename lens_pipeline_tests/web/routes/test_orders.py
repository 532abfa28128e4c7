"""Orders of several formats and fragments of one master."""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.run_queue import execute_queued

pytestmark = pytest.mark.slow

MASTERS = f"/api/projects/{PROJECT}/master-videos"
SCALED = f"/api/projects/{PROJECT}/scaled-videos"


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


@pytest.fixture
def film(site: Site, web: httpx.Client, project: Project) -> str:
    """A ready master of twelve seconds in two shots of twelve."""
    shots = [project.shot(name) for name in ("a", "b")]
    body = {"name": "A film", "shots": shots * 6, "master_id": "m1"}
    assert web.post(MASTERS, json=body).status_code == 201
    execute_queued(site)
    return "m1"


@pytest.fixture
def order(web: httpx.Client) -> Callable[..., httpx.Response]:
    return lambda master="m1", **body: web.post(f"{MASTERS}/{master}/renditions", json=body)


def _rows(site: Site) -> list[Any]:
    return site.sql("SELECT * FROM scaled_videos ORDER BY scaled_id")


def test_an_order_of_formats_and_fragments_is_made_in_one_run(
    site: Site, web: httpx.Client, film: str, order: Callable[..., httpx.Response]
) -> None:
    body = {"formats": ["90x160", "160x120"], "count": 3, "length": [2, 4], "order_id": "o1"}
    first = order(**body, seed=7)
    assert first.status_code == 201
    made = first.json()
    assert (made["order_id"], made["master_id"], made["seed"]) == ("o1", film, 7)
    pieces = made["scaled_videos"]
    assert [piece["format"] for piece in pieces] == ["90x160", "160x120"] * 3
    assert {piece["fill"] for piece in pieces} == {"blur"}
    assert made["notes"] == ["160x120: the film has this shape, so there is nothing to blur"]
    lengths = [piece["end_seconds"] - piece["start_seconds"] for piece in pieces]
    assert all(1.9 < length <= 4.01 for length in lengths)
    (run,) = [one for one in site.runs() if one.job_name == "scaled"]
    assert run.tags["lens/files"] == "6"
    # At joins of shots, a moment before: from there on the first frame is the next shot's.
    assert all(piece["start_seconds"] % 1 in (0, pytest.approx(0.99)) for piece in pieces)

    assert execute_queued(site) == 1
    listed = web.get(SCALED, params={"order_ids": "o1"}).json()["scaled_videos"]
    assert {piece["scaled_id"] for piece in listed} == {piece["scaled_id"] for piece in pieces}
    assert {piece["status"] for piece in listed} == {"ready"}
    again = order(**body, seed=7)
    assert (again.status_code, len(site.runs())) == (200, 2)
    assert [one["scaled_id"] for one in again.json()["scaled_videos"]] == [
        piece["scaled_id"] for piece in pieces
    ]
    for piece in listed:
        wanted = piece["end_seconds"] - piece["start_seconds"]
        assert piece["duration_seconds"] == pytest.approx(wanted, abs=1 / 24)
    assert web.get(SCALED, params={"order_ids": "other"}).json()["scaled_videos"] == []
    for change in (
        {"seed": 8},
        {"count": 2},
        {"length": [2, 3]},
        {"start": 6},
        {"enlarge": True},
        {"formats": ["90x160"]},
        {"formats": ["90x160", "80x80"]},
        {"count": None, "length": None},
        {"fill": "crop", "focus": [0, 0]},
    ):
        other = order(**{**body, "seed": 7, **change})
        assert (other.status_code, other.json()["error"]) == (409, "id_taken"), change
    wrong = order(**{**body, "formats": ["1x1"]})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "impossible_size")
    # The same order under another id has other pieces at the same places.
    places = [(one["start_seconds"], one["end_seconds"]) for one in pieces]
    twin = order(**{**body, "order_id": "o2"}, seed=7).json()["scaled_videos"]
    assert [(one["start_seconds"], one["end_seconds"]) for one in twin] == places
    # The run of all of them ends with the film.
    assert web.delete(f"{MASTERS}/{film}").status_code == 204
    assert _rows(site) == []
    assert site.runs()[0].status.value in ("CANCELED", "CANCELING")


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no format": ({"formats": []}, "no_formats", "name a format"),
    "of a pixel": ({"formats": ["1x1"]}, "impossible_size", "16 to 8192 pixels"),
    "too large": ({"formats": ["20000x20000"]}, "impossible_size", "16 to 8192 pixels"),
    "unknown": ({"formats": ["wide"]}, "unknown_format", "'wide' is no format"),
    "many": ({"formats": ["9:16"] * 500}, "too_many_formats", "at most 12 formats, not 500"),
    "backwards": ({"start": 5, "end": 5}, "empty_part", "is not at least 0.1 s after the start"),
    "late": ({"start": 12}, "outside_film", "the start (12 s) is outside the film"),
    "long": ({"end": 13}, "outside_film", "the end (13 s) is outside the film, which has 12.000 s"),
    "lengths": ({"count": 2, "length": [2, 40]}, "outside_film", "do not fit into 12.000 s"),
    "shrinking": ({"count": 2, "length": [4, 2]}, "impossible_length", "shortest"),
    "none": ({"count": 0}, "impossible_count", "1 to 100, not 0"),
    "too often": ({"count": 101}, "impossible_count", "1 to 100, not 101"),
    "focus": ({"focus": [0.5, 0.5]}, "invalid_request", "what a crop keeps"),
    "beyond": ({"fill": "crop", "focus": [2, 0]}, "invalid_request", "focus"),
    "fill": ({"fill": "stretch"}, "invalid_request", "fill"),
    "id": ({"order_id": "../x"}, "invalid_request", "order_id"),
}


def test_orders_that_are_refused_say_why_and_leave_nothing(
    site: Site,
    web: httpx.Client,
    project: Project,
    film: str,
    order: Callable[..., httpx.Response],
) -> None:
    for case, (body, code, word) in BAD.items():
        answer = order(**{"formats": ["9:16"], **body})
        assert (answer.status_code, answer.json()["error"]) == (400, code), case
        assert word in answer.json()["message"], case
    # A film that is too short for fragments, and one that is not ready.
    project.master("short", ["a"])
    assert order("nobody", formats=["9:16"]).status_code == 404
    waiting = order("short", formats=["9:16"], count=2)
    assert (waiting.status_code, waiting.json()["error"]) == (409, "master_not_ready")
    assert _rows(site) == []
    waits = order("short", formats=["9:16", "1:1"]).json()["scaled_videos"]
    assert [piece["held_by"] for piece in waits] == ["input", "input"]
    assert waits[0]["waits"] == "master 'short' is not ready: none"
    site.once()
    assert order("short", formats=["9:16"], count=2).json()["error"] == "film_too_short"
    assert len(_rows(site)) == 2


def test_a_hosts_table_without_the_columns_has_black_bars(
    site: Site, web: httpx.Client, film: str, order: Callable[..., httpx.Response]
) -> None:
    """A host whose own table stops to be read, or is altered."""
    site.sql("ALTER TABLE scaled_videos DROP COLUMN fill, DROP COLUMN focus, DROP COLUMN order_id")
    site.sql("COMMENT ON TABLE scaled_videos IS 'of the host'")
    refused = order(formats=["9:16"], fill="crop")
    assert (refused.status_code, refused.json()["error"]) == (400, "no_fills")
    assert "ALTER TABLE scaled_videos ADD COLUMN fill text" in refused.json()["message"]
    made = order(formats=["90x160"], order_id="o1", end=1)
    assert made.status_code == 201
    assert made.json()["scaled_videos"][0]["fill"] == "black"
    assert order(formats=["90x160"], order_id="o1", end=1).status_code == 200
    assert web.get(SCALED, params={"order_ids": "o1"}).json()["scaled_videos"] == []
    execute_queued(site)
    (piece,) = web.get(SCALED).json()["scaled_videos"]
    assert piece["status"] == "ready"
    assert "scaled_videos" not in site.lens("migrate").out
    assert "nothing to do" in site.lens("migrate", "--check").out
    assert "order_id" not in _rows(site)[0]._mapping
    # One that an earlier version made is recognised, and gets them.
    site.sql("COMMENT ON TABLE scaled_videos IS NULL")
    assert "run `lens migrate`" in site.lens("migrate", "--check").out
    assert "columns fill, focus, order_id of scaled_videos" in site.lens("migrate").out
    assert site.lens("migrate").out.strip() == "every table is there already"
    (piece,) = web.get(SCALED).json()["scaled_videos"]
    assert (piece["status"], piece["fill"]) == ("ready", "black")
