"""What the shots of a master lead to."""

import datetime as dt
from typing import Any

import pytest

from lens_pipeline.catalog.shots import Asset, Entry, ShotGeneration, read_config, resolve

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

CONFIGS: dict[str, tuple[Any, list[str], str]] = {
    "in order, one of them twice": (["b", "a", "b"], ["b", "a", "b"], ""),
    "one of them quiet": ([{"asset_id": "a", "quiet": True}, "b"], ["a", "b"], ""),
    "an object without an id": ([{"quiet": True}], [], "no asset id but"),
    "quiet in words": ([{"asset_id": "a", "quiet": "very"}], [], "no asset id but"),
    "as text": ('["a"]', ["a"], ""),
    "none": ([], [], "names no shot"),
    "null": (None, [], "no list of asset ids but null"),
    "an object": ({"shots": ["a"]}, [], 'no list of asset ids but {"shots": ["a"]}'),
    "text that is no JSON": ("[a", [], "is no JSON"),
    "text that is nested too deep": ("[" * 100_000, [], "or too deep"),
    "a number among them": (["a", 7], [], "shot 2 of shots_config is no asset id but 7"),
    "an empty id": (["", "a"], [], "shot 1 of shots_config is no asset id"),
    "far too many": (["a"] * 1001, [], "over the limit of 1000"),
}


@pytest.mark.parametrize(("config", "ids", "problem"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_is_a_list_of_asset_ids(config: Any, ids: list[str], problem: str) -> None:
    """A master of other shots than the person chose, or a traceback for a slip."""
    found, why = read_config(config)
    assert [entry.asset_id for entry in found] == ids
    assert problem in (why or "")
    assert bool(why) == bool(problem)


def asset(generation: str | None = None, url: str | None = None, project: str = "p1") -> Asset:
    return Asset(project, generation, url, AT)


def generation(kind: str = "video", status: str = "success", url: str = "u1/a.mp4") -> Any:
    return ShotGeneration(kind, status, url, AT)


SHOTS: dict[str, tuple[dict[str, Asset], dict[str, Any], str, str]] = {
    "a generation": ({"a": asset("g")}, {"g": generation()}, "source", "u1/a.mp4"),
    "a URL or key": ({"a": asset(url="https://h/a.mp4")}, {}, "source", "https://h/a.mp4"),
    "unknown": ({}, {}, "problem", "shot 'a': no asset has this id"),
    "of another project": (
        {"a": asset(url="x", project="p2")}, {}, "problem", "shot 'a' belongs to another project"
    ),
    "without anything": ({"a": asset()}, {}, "problem", "neither a generation nor an asset_url"),
    "of a deleted generation": (
        {"a": asset("g", "old.mp4")}, {}, "problem", "shot 'a': its generation 'g' does not exist"
    ),
    "a photo": (
        {"a": asset("g")}, {"g": generation("photo")}, "problem", "is a photo, no video"
    ),
    "not finished": (
        {"a": asset("g")},
        {"g": generation(status="generating")},
        "waits",
        "shot 'a': its generation 'g' has status 'generating'",
    ),
    "without a file": ({"a": asset("g")}, {"g": generation(url="")}, "problem", "has no asset_url"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("assets", "generations", "field", "text"), SHOTS.values(), ids=SHOTS.keys()
)
def test_a_shot_says_what_it_leads_to(
    assets: dict[str, Asset], generations: dict[str, Any], field: str, text: str
) -> None:
    """A master that waits for ever, or fails for what is only late."""
    (shot,) = resolve("p1", [Entry("a")], assets, generations)
    outcome = {"source": shot.source, "waits": shot.waits, "problem": shot.problem}
    assert text in (outcome.pop(field) or "")
    assert set(outcome.values()) == {None}


def test_a_quiet_shot_is_known_as_such() -> None:
    entries, _ = read_config([{"asset_id": "a", "quiet": True}, "a"])
    shots = resolve("p1", entries, {"a": asset(url="x")}, {})
    assert [shot.quiet for shot in shots] == [True, False]
