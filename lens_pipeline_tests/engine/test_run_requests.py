"""From partitions to runs, which are ranges of a partition set."""

import random

import pytest

from lens_pipeline.derivatives.registry import POSTER, PREVIEW
from lens_pipeline.engine.run_requests import Batch, batches, run_request

CASES = {
    "nothing": ("", "abc", 2, []),
    "all of a set": ("abcd", "abcd", 2, ["ab", "cd"]),
    "a rest": ("abc", "abc", 2, ["ab", "c"]),
    "a gap splits": ("abd", "abcd", 5, ["ab", "d"]),
    "scattered": ("ace", "abcde", 5, ["a", "c", "e"]),
    "asked for in another order": ("ba", "ab", 2, ["ab"]),
    "new ones go to the end, as given": ("zx", "ab", 2, ["zx"]),
    "new ones join the last old one": ("bzx", "ab", 5, ["bzx"]),
    "new ones do not join over a gap": ("azx", "ab", 5, ["a", "zx"]),
    "into an empty set": ("abc", "", 2, ["ab", "c"]),
}


@pytest.mark.parametrize(("keys", "order", "size", "expected"), CASES.values(), ids=CASES.keys())
def test_batches_are_neighbours(keys: str, order: str, size: int, expected: list[str]) -> None:
    """A range that takes along partitions which nobody asked for."""
    assert ["".join(batch.keys) for batch in batches(keys, order, size)] == expected


OWNERS = {"a": "u1", "b": "u2"}


def test_batches_cover_exactly_what_was_asked_for() -> None:
    """A key that is lost, done twice, or covered by a range by accident."""
    rng = random.Random(1)
    for _ in range(200):
        order = [f"k{number}" for number in range(rng.randrange(40))]
        keys = rng.sample(order, rng.randrange(len(order) + 1))
        keys += [f"n{number}" for number in range(rng.randrange(10))]
        rng.shuffle(keys)
        size = rng.randrange(1, 8)
        after = [*order, *(key for key in keys if key not in order)]
        covered = []
        for batch in batches(keys, order, size):
            tags = batch.tags()
            first = after.index(tags["dagster/asset_partition_range_start"])
            last = after.index(tags["dagster/asset_partition_range_end"])
            assert tuple(after[first : last + 1]) == batch.keys
            assert len(batch.keys) <= size
            covered += batch.keys
        assert sorted(covered) == sorted(keys)


def test_the_same_revisions_are_the_same_request() -> None:
    """Two ticks that both start a run for one new photo."""
    batch = Batch(("a", "b"))
    revisions, other = {"a": "1", "b": "2"}, {"a": "1", "b": "3"}
    first = run_request(PREVIEW, batch, revisions, "sensor", 0, OWNERS)
    assert first.run_key == run_request(PREVIEW, batch, revisions, "sensor", 0, OWNERS).run_key
    assert first.run_key != run_request(PREVIEW, batch, other, "sensor", 0, OWNERS).run_key
    assert first.run_key != run_request(POSTER, batch, revisions, "sensor", 0, OWNERS).run_key
    assert first.job_name == "previews"
    assert first.tags["lens/origin"] == "sensor"


def test_a_run_has_an_owner_if_all_its_files_are_one_user_s() -> None:
    """Somebody whose single photo counts as one of the thousands that it shares a run with."""
    revisions = {"a": "1", "b": "2"}
    of_one = run_request(PREVIEW, Batch(("a",)), revisions, "sensor", 0, OWNERS)
    of_two = run_request(PREVIEW, Batch(("a", "b")), revisions, "sensor", 0, OWNERS)
    assert of_one.tags["lens/user"] == "u1"
    assert "lens/user" not in of_two.tags
