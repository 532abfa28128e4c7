"""From partitions to runs, which are ranges of a partition set."""

import random
from dataclasses import replace
from typing import Any

import pytest

from lens_pipeline.derivatives.registry import POSTER, PREVIEW
from lens_pipeline.engine.run_requests import Batch, batches, run_request
from lens_pipeline.event_log.history import DerivativeStatus

CASES = {
    "nothing": ("", "abc", 2, []),
    "all of a set": ("abcd", "abcd", 2, ["ab", "cd"]),
    "a rest": ("abc", "abc", 2, ["ab", "c"]),
    "a gap splits": ("abd", "abcd", 5, ["ab", "d"]),
    "scattered": ("ace", "abcde", 5, ["a", "c", "e"]),
    "asked for in another order": ("ba", "ab", 2, ["ab"]),
    "one has left the set meanwhile": ("axb", "abc", 5, ["ab"]),
}


@pytest.mark.parametrize(("keys", "order", "size", "expected"), CASES.values(), ids=CASES.keys())
def test_batches_are_neighbours(keys: str, order: str, size: int, expected: list[str]) -> None:
    """A range that takes along partitions which nobody asked for."""
    assert ["".join(batch.keys) for batch in batches(keys, order, size)] == expected


def test_batches_cover_exactly_what_was_asked_for() -> None:
    """A key that is lost, done twice, or covered by a range by accident."""
    rng = random.Random(1)
    for _ in range(200):
        order = [f"k{number}" for number in range(rng.randrange(40))]
        keys = rng.sample(order, rng.randrange(len(order) + 1))
        size = rng.randrange(1, 8)
        covered = []
        for batch in batches(keys, order, size):
            tags = batch.tags()
            first = order.index(tags["dagster/asset_partition_range_start"])
            last = order.index(tags["dagster/asset_partition_range_end"])
            assert tuple(order[first : last + 1]) == batch.keys
            assert len(batch.keys) <= size
            covered += batch.keys
        assert sorted(covered) == sorted(keys)


def statuses(**changes: Any) -> dict[str, DerivativeStatus]:
    first = DerivativeStatus("preview", "a", user_id="u1", revision="1", request_key="7.0")
    second = DerivativeStatus("preview", "b", user_id="u2", revision="2", request_key="0.0")
    return {"a": first, "b": replace(second, **changes)}


def test_the_same_attempt_is_the_same_request() -> None:
    """Two ticks that both start a run for one new photo."""
    batch = Batch(("a", "b"))
    first = run_request(PREVIEW, batch, statuses(), "sensor", 0)
    assert first.run_key == run_request(PREVIEW, batch, statuses(), "sensor", 0).run_key
    others = [
        run_request(PREVIEW, batch, statuses(revision="3"), "sensor", 0),
        run_request(PREVIEW, batch, statuses(request_key="0.1"), "sensor", 0),
        run_request(POSTER, batch, statuses(), "sensor", 0),
    ]
    assert len({first.run_key, *(one.run_key for one in others)}) == 4
    assert first.job_name == "previews"
    assert first.tags["lens/origin"] == "sensor"
    assert first.tags[".dagster/lens_revisions"] == "a=1 b=2"
    # PostgreSQL's index takes no longer one.
    long = run_request(PREVIEW, batch, statuses(revision="3" * 2500), "sensor", 0)
    assert ".dagster/lens_revisions" not in long.tags


def test_a_run_has_an_owner_if_all_its_files_are_one_user_s() -> None:
    """Somebody whose single photo counts as one of the thousands that it shares a run with."""
    of_one = run_request(PREVIEW, Batch(("a",)), statuses(), "sensor", 0)
    of_two = run_request(PREVIEW, Batch(("a", "b")), statuses(), "sensor", 0)
    assert of_one.tags["lens/user"] == "u1"
    assert "lens/user" not in of_two.tags
