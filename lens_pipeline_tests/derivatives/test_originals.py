"""How many originals are not saved, and which of them should be."""

from collections.abc import Callable

import pytest

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.definitions import defs
from lens_pipeline.derivatives.originals import Unsaved, UnsavedOriginals, count_unsaved, in_words
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.monitoring import backlog
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]


def _counts(site: Site) -> tuple[int, int]:
    """Of photos: late and older ones."""
    (*_, found) = count_unsaved(site.pipeline)
    both = found[Kind.PHOTO]
    return both.late.count, both.older.count


def _finished(site: Site, row_id: str, ago: str) -> None:
    site.sql(f"UPDATE generations SET updated_at = now() - interval '{ago}' WHERE id = '{row_id}'")


def _without_original(site: Site, row_id: str) -> None:
    """As a version that kept none made it, or a store that refused it."""
    (tags,) = plan_runs(site.dagster, PREVIEW, [row_id], 20, "backfill")
    job = defs().get_repository_def().get_job("previews")
    execute(site.dagster, create_run(site.dagster, job, tags, ["preview"]).run_id)


def test_an_older_library_is_told_apart_from_new_rows(
    site: Site, photo: Photo, environment: pytest.MonkeyPatch
) -> None:
    """An alert about a million old rows on the day of an upgrade, or none about a new one."""
    for name in ("old", "touched"):
        site.add(name, photo(name))
        _without_original(site, name)
        _finished(site, name, "1 year")
    assert _counts(site) == (0, 2)
    assert site.lens("status").code == 0

    site.add("first", photo("first"))
    assert site.once()["ready"] == 1
    site.age_events("1 day")
    assert _counts(site) == (0, 2)
    # The application's own file, a dead letter, and a row that it only touched.
    (site.store / "own.jpg").write_bytes(sources.jpeg())
    for name, url in (("own", "own.jpg"), ("dead", "http://127.0.0.1/dead.jpg")):
        site.add(name, url)
        _without_original(site, name)
        _finished(site, name, "2 hours")
    _finished(site, "touched", "2 hours")
    assert _counts(site) == (0, 3)

    # A row that is just made, one that should have been, and one whose link has expired by now.
    for name, ago in (("young", "59 minutes"), ("late", "61 minutes"), ("lost", "15 days")):
        site.add(name, photo(name))
        _without_original(site, name)
        _finished(site, name, ago)
    assert _counts(site) == (1, 4)
    done = site.lens("status", "--json")
    assert done.code == 1
    assert done.json["originals_unsaved"]["photo"]["late"]["count"] == 1
    assert site.lens("status").out.startswith("originals: not saved: 1 of new photos, the first of")

    assert site.lens("backfill", "--originals", "--json").json["failed"] == 1
    assert _counts(site) == (0, 1)
    environment.setenv("LENS_KEEP_ORIGINALS", "never")
    assert list(count_unsaved(site.pipeline)) == []
    assert "none is kept" in site.lens("status").out


def test_the_backlog_counts_by_and_by(
    site: Site, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the queues that waits until a million rows are counted."""
    monkeypatch.setattr(backlog, "_COUNT_SECONDS", 0.0)
    site.add("old", photo("old"))
    _finished(site, "old", "1 year")
    counter = backlog.OriginalCounter(site.pipeline)
    assert counter.look() is None
    while (found := counter.look()) is None:
        pass
    assert [one.older.count for one in found.values()] == [1, 0]
    site.sql("DELETE FROM generations")
    assert counter.look() is found


def test_nothing_to_tell() -> None:
    assert in_words({}) == "none is kept: LENS_KEEP_ORIGINALS=never"
    assert in_words({Kind.PHOTO: UnsavedOriginals()}) == "every one is saved"
    counts = UnsavedOriginals(older=Unsaved(1234))
    told = "not saved: 1,234 of older photos: `lens backfill --originals` saves them"
    assert in_words({Kind.PHOTO: counts}) == told
