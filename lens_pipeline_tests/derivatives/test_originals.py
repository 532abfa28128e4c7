"""How many originals are not saved, and which of them should be."""

from collections.abc import Callable

import pytest

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.definitions import defs
from lens_pipeline.defs.assets.originals import Metadata, Originals
from lens_pipeline.derivatives.originals import Unsaved, UnsavedOriginals, count_unsaved, in_words
from lens_pipeline.derivatives.registry import PHOTO_ORIGINAL, PREVIEW
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.errors import StoreUnavailable
from lens_pipeline.monitoring import backlog
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]


def _counts(site: Site) -> tuple[int, int]:
    """Of photos: late and older ones."""
    *_, (found, is_whole) = count_unsaved(site.pipeline)
    assert is_whole
    both = found[Kind.PHOTO]
    return both.late.count, both.older.count


def _finished(site: Site, row_id: str, ago: str) -> None:
    site.sql(f"UPDATE generations SET updated_at = now() - interval '{ago}' WHERE id = '{row_id}'")


def _run(site: Site, row_id: str, *assets: str, ago: str = "0 s") -> None:
    """Of all assets of the job unless they are named. `ago`: when it was."""
    (tags,) = plan_runs(site.dagster, PREVIEW, [row_id], 20, "backfill")
    job = defs().get_repository_def().get_job("previews")
    run_id = create_run(site.dagster, job, tags, assets or None).run_id
    execute(site.dagster, run_id)
    site.age_events(ago, run_id)


def _refuse(*_: object) -> Metadata:
    raise StoreUnavailable("the store is full")


def test_an_older_library_is_told_apart_from_new_rows(
    site: Site, photo: Photo, environment: pytest.MonkeyPatch
) -> None:
    """An alert about a million old rows on the day of an upgrade, or none about a new one."""
    # As a version that kept none, or an older system, made their previews.
    for name in ("old", "touched"):
        site.add(name, photo(name))
        _run(site, name, "preview")
    site.add("adopted", "http://127.0.0.1/adopted.jpg")
    preview = site.store / "u1/previews/adopted_preview.webp"
    preview.write_bytes(b"webp")
    assert site.lens("adopt", "--json").json["adopted"] == 1
    # Originals were switched off when this one was made.
    environment.setenv("LENS_KEEP_ORIGINALS", "never")
    site.add("unkept", photo("unkept"))
    _run(site, "unkept")
    assert list(count_unsaved(site.pipeline)) == [({}, True)]
    assert "none is kept" in site.lens("status").out
    environment.setenv("LENS_KEEP_ORIGINALS", "external")

    site.add("dead", "http://127.0.0.1/dead.jpg")
    _run(site, "dead")
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Originals, "keep", _refuse)
        for name, ago in (("young", "59 minutes"), ("late", "61 minutes"), ("lost", "15 days")):
            site.add(name, photo(name))
            _run(site, name, ago=ago)
        # A backfill of originals that gets none is no loss of new ones.
        for name in ("touched", "adopted", "unkept"):
            _run(site, name, PHOTO_ORIGINAL.asset, ago="2 hours")
    site.add("saved", photo("saved"))
    _run(site, "saved")
    # The application's own file.
    (site.store / "own.jpg").write_bytes(sources.jpeg())
    site.add("own", "own.jpg")
    _run(site, "own", "preview")
    site.sql("UPDATE generations SET updated_at = now() - interval '2 hours'")
    _finished(site, "old", "1 year")
    assert _counts(site) == (1, 7)
    done = site.lens("status", "--json")
    assert done.code == 1
    assert done.json["originals_unsaved"]["photo"]["late"]["count"] == 1
    assert "\noriginals: not saved: 1 of new photos, the first of" in site.lens("status").out

    assert site.lens("backfill", "--originals", "--json").json["failed"] == 2
    assert _counts(site) == (0, 2)
    assert site.lens("status").code == 0


def test_the_backlog_counts_by_and_by(
    site: Site, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the queues that waits until a million rows are counted."""
    monkeypatch.setattr(backlog, "_COUNT_SECONDS", 0.0)
    site.add("old", photo("old"))
    _finished(site, "old", "1 year")
    counter = backlog.OriginalCounter(site.pipeline)
    monkeypatch.setattr(backlog, "_COUNT_RESTS", 0)
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
