"""The commands that only look, on a site with files in several states."""

from collections.abc import Callable

import dagster as dg
import pytest

from lens_pipeline import VERSION
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.derivatives.state_counts import state_counts
from lens_pipeline.event_log.history import State
from lens_pipeline.monitoring.view_sync import update_view
from lens_pipeline.reasons import explain
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def mixed(site: Site, photo: Callable[[str], str]) -> Site:
    """A preview that is ready, two dead letters, and rows that wait or cannot be used."""
    site.add("good", photo("good"))
    site.add("lost", "uploads/lost.jpg")
    site.add("inside", "http://127.0.0.1/a.jpg")
    site.once()
    site.add_many(["new", "newer"], lambda name: f"https://example.org/{name}.jpg", age="90 s")
    site.add("no key", photo("x"))
    return site


def test_status_without_an_id_is_an_overview(mixed: Site) -> None:
    told = mixed.lens("status", "--json")
    assert (told.code, told.json["version"]) == (0, VERSION)
    states = {"none": 2, "processing": 0, "ready": 1, "failed": 0, "dead": 2}
    assert told.json["counts"]["photo"] == states
    assert told.json["oldest_waiting"]["photo"] is not None
    assert told.json["oldest_waiting"]["video"] is None
    assert (told.json["daemon"], told.json["worker_slots"]) == (
        False,
        {"previews": 0, "masters": 0},
    )
    assert told.json["addresses"]["library"] == "http://127.0.0.1:8000/library"
    assert all(space["free"] > 0 for space in told.json["disk"].values())

    lines = mixed.lens("status").out.splitlines()
    assert lines[0] == f"Lens Pipeline {VERSION}"
    (photos,) = [line.split() for line in lines if line.startswith("photo ")]
    assert photos[1:6] == ["2", "0", "1", "0", "2"]
    # A minute and a half ago, in seconds.
    assert 90 <= int(photos[6]) < 120
    assert "Dagster: http://127.0.0.1:3000/ (does not answer)" in lines
    assert "workers: none" in lines


def test_the_view_counts_as_the_rows_do(mixed: Site) -> None:
    """A large library, of which not every row is assessed."""
    assessed = state_counts(mixed.pipeline, PREVIEW, is_kept=False)
    # Without a view there is nothing else to count.
    assert state_counts(mixed.pipeline, PREVIEW, is_kept=True) == assessed
    mixed.pipeline.catalog.migrate_view()
    update_view(mixed.pipeline, [], alone=True)
    assert mixed.pipeline.catalog.view_counts(PREVIEW.kind, PREVIEW.asset, 60) is not None
    assert state_counts(mixed.pipeline, PREVIEW, is_kept=True) == assessed
    assert {state: one.rows for state, one in assessed.items()} == {
        State.NONE: 2,
        State.READY: 1,
        State.DEAD: 2,
    }


def test_dead_letters_are_a_table_with_what_to_do(mixed: Site) -> None:
    lines = mixed.lens("dead-letters").out.splitlines()
    assert lines[0].split() == ["since", "(UTC)", "kind", "id", "attempts", "reason"]
    lost = next(line for line in lines if " lost " in line)
    assert "1  SourceMissing: uploads/lost.jpg: no such object" in lost
    # A pipe has no width: each letter is one line.
    for name in ("SourceMissing", "UnsafeAddress", "InvalidRow"):
        assert f"{name}: {explain(name).text}" in lines
    assert lines[-1] == "3 dead letters: `lens retry ID` tries again"
    of_class = mixed.lens("dead-letters", "--class", "UnsafeAddress", "--json").json
    assert [letter["id"] for letter in of_class["dead_letters"]] == ["inside"]
    since = mixed.lens("dead-letters", "--since", "2999-01-01", "--json").json["dead_letters"]
    # The time of a row that cannot be used is not known.
    assert [letter["id"] for letter in since] == ["no key"]
    assert mixed.lens("dead-letters", "--since", "yesterday").code == 2


def test_a_failure_is_told_in_the_same_words_everywhere(mixed: Site) -> None:
    words = explain("SourceMissing").text
    assert f"\n  {words}\n" in mixed.lens("status", "lost").out
    records = mixed.dagster.fetch_observations(dg.AssetKey(PREVIEW.asset), limit=10).records
    told = {
        record.asset_observation.partition: record.asset_observation.description
        for record in records
        if record.asset_observation
    }
    assert told["lost"] == words
    mixed.lens("retry", "lost")
    assert words in mixed.lens("once").out
