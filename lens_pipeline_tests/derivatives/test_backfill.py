"""What the backfill finds and what it keeps of it."""

import datetime as dt
import tracemalloc
from collections.abc import Iterator
from math import inf
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.derivatives import backfill
from lens_pipeline.derivatives.registry import MASTER, POSTER, PREVIEW
from lens_pipeline.derivatives.removal import removal_of
from lens_pipeline.derivatives.status import status_pages
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.event_log.tags import (
    BLAMELESS_TAG,
    ERROR_CLASS_TAG,
    FAILED_REVISION_TAG,
    OUTCOME_TAG,
)
from lens_pipeline.monitoring.view_sync import update_view
from lens_pipeline_tests.support.site import Site


def test_a_library_to_be_adopted_is_only_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte of memory every five minutes, for rows that are left alone."""
    old = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

    def pages(*_: object) -> Iterator[list[DerivativeStatus]]:
        for page in range(50):
            names = (f"{page}-{number}" for number in range(400))
            yield [DerivativeStatus("preview", name, finished_at=old) for name in names]

    monkeypatch.setattr(backfill, "status_pages", pages)
    tracemalloc.start()
    try:
        found = backfill.survey(site.pipeline, PREVIEW, bulk=False, limit=100)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.unrecorded_old, found.needed) == (20_000, [])
    assert most_bytes < 2_000_000


def _library(site: Site, count: int) -> None:
    """Photos of last year with a preview, without runs; the projection shows them."""
    assert site.lens("migrate").code == 0
    ids = [f"p{number:05}" for number in range(count)]
    site.add_many(ids, lambda key: f"https://example.org/é {key}\n.jpg", "300 days")
    rows = site.pipeline.catalog.library_rows(ids).values()
    revisions = {row.id: PREVIEW.revision(row.generation(), site.pipeline.settings) for row in rows}
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in _MADE:
            values = {"keys": [*revisions], "revisions": [*revisions.values()]}
            connection.execute(sa.text(statement), values)
    update_view(site.pipeline, [], alone=True)


_MADE = (
    """
    INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, asset_key, partition)
    SELECT '', '{}', 'ASSET_MATERIALIZATION', now(), '["preview"]', key
      FROM unnest(CAST(:keys AS text[])) AS key
    """,
    """
    INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
    SELECT e.id, e.asset_key, 'dagster/data_version', r.revision, e.timestamp FROM event_logs e
      JOIN unnest(CAST(:keys AS text[]), CAST(:revisions AS text[])) AS r(key, revision)
        ON r.key = e.partition
    """,
)


class _Looks:
    """Looks of one scanner, which count the rows that they assess."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scanner = backfill.BackfillScanner(site.pipeline, PREVIEW)
        self._assessed = 0

        def pages(*values: Any) -> Iterator[list[DerivativeStatus]]:
            for page in status_pages(*values):
                self._assessed += len(page)
                yield page

        monkeypatch.setattr(backfill, "status_pages", pages)

    def __call__(self, *, all_rows: bool = False, truth: bool = False) -> tuple[list[str], int]:
        """The rows needed, and the number of those assessed; `all_rows`, `truth`: one is due."""
        self._assessed = 0
        self.scanner._all_at = inf
        if all_rows:
            self.scanner.make_due()
        if truth:
            self.scanner._truth_at = 0.0
        found = self.scanner.look(100)
        return [status.id for status in found.needed], self._assessed


def _fail(site: Site, row_id: str) -> None:
    """A file is lost and cannot be made, as a run reports it; it is due at once."""
    row = site.pipeline.catalog.library_rows([row_id])[row_id].generation()
    tags = {OUTCOME_TAG: "failed", BLAMELESS_TAG: "true", ERROR_CLASS_TAG: "StoreUnavailable"}
    revision = {FAILED_REVISION_TAG: PREVIEW.revision(row, site.pipeline.settings)}
    site.dagster.report_runless_asset_event(removal_of("preview", row_id, "", "it is lost"))
    site.dagster.report_runless_asset_event(
        dg.AssetObservation("preview", partition=row_id, tags=tags | revision)
    )


@pytest.mark.slow
def test_a_look_assesses_what_changed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety seconds for a million photos, every five minutes, on which nothing has changed."""
    _library(site, 5000)
    look = _Looks(site, monkeypatch)
    assert look() == ([], 5000)
    assert look() == ([], 0)
    assert look(all_rows=True) == ([], 0)
    site.add("new", "https://example.org/new.jpg")
    assert look() == (["new"], 1)
    # It is open.
    site.sql("UPDATE generations SET updated_at = '2020-01-01' WHERE id = 'new'")
    assert look() == (["new"], 1)
    _fail(site, "p00007")
    assert look() == (["new", "p00007"], 2)
    # Nothing tells of a row that keeps its time.
    site.sql("UPDATE generations SET asset_url = 'https://example.org/b' WHERE id = 'p00001'")
    assert look() == (["new", "p00007"], 2)
    assert look(all_rows=True) == (["new", "p00001", "p00007"], 3)
    assert look() == (["new", "p00001", "p00007"], 3)
    assert look(truth=True) == (["new", "p00001", "p00007"], 5001)


def test_owners_take_turns_however_many_files_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage, a user's few photos behind the ten thousand of another's."""
    monkeypatch.setattr(backfill, "_MOST_OPEN", 10)
    for number in range(40):
        site.add(f"a{number:02}", "https://example.org/a.jpg", user_id="many")
    site.add("b1", "https://example.org/b.jpg", user_id="few")
    pages = site.pipeline.catalog.all_finished
    monkeypatch.setattr(site.pipeline.catalog, "all_finished", lambda kind: pages(kind, page=5))
    found = backfill.survey(site.pipeline, PREVIEW, bulk=True, limit=4)
    assert [status.id for status in found.needed] == ["a00", "b1", "a01", "a02"]


@pytest.mark.parametrize("keeps_projection", [True, False])
def test_the_look_after_a_whole_one_asks_the_projection(
    site: Site, monkeypatch: pytest.MonkeyPatch, keeps_projection: bool
) -> None:
    """A start whose minute of looking puts all else off for hours."""
    _library(site, 10)
    if not keeps_projection:
        site.sql("DROP VIEW lens_generations")
    look = _Looks(site, monkeypatch).scanner.look
    clock = [1000.0]

    def pages(*values: Any) -> Iterator[list[DerivativeStatus]]:
        clock[0] += 90
        return status_pages(*values)

    monkeypatch.setattr(backfill, "status_pages", pages)
    monkeypatch.setattr(backfill.time, "monotonic", lambda: clock[0])
    look(100)
    site.sql("UPDATE generations SET asset_url = 'https://example.org/b' WHERE id = 'p00001'")
    clock[0] += 300
    assert [status.id for status in look(100).needed] == ["p00001"]
    site.sql("UPDATE generations SET asset_url = 'https://example.org/b' WHERE id = 'p00002'")
    clock[0] += 1800
    assert [status.id for status in look(100).needed] == ["p00001", "p00002"]


def test_a_library_to_be_adopted_is_not_read_at_every_tick(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million rows without a record, assessed each five minutes for nothing."""
    monkeypatch.setattr(backfill, "_MOST_OPEN", 5)
    monkeypatch.setattr(backfill, "ADOPTION_ROWS", 5)
    _library(site, 10)
    site.sql("UPDATE generations SET updated_at = '2020-01-01'")
    site.sql("UPDATE lens_derivatives SET fingerprint = ''")
    look = _Looks(site, monkeypatch)
    assert look(all_rows=True) == ([], 10)
    assert look.scanner._all_at == 0.0
    assert look(all_rows=True) == ([], 10)
    assert look.scanner._all_at > 0.0


def test_the_projection_decides_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is made twice, or never, because a copy of the truth was wrong."""
    _library(site, 10)
    look = _Looks(site, monkeypatch)
    look()
    _fail(site, "p00000")
    assert look(all_rows=True) == (["p00000"], 1)
    site.sql("DELETE FROM lens_derivatives WHERE id IN ('p00001', 'p00002')")
    site.sql("UPDATE lens_derivatives SET fingerprint = '' WHERE id = 'p00003'")
    assert look(all_rows=True) == (["p00000"], 4)
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM event_logs WHERE partition = 'p00004'"))
    assert look(all_rows=True) == (["p00000"], 4)
    assert look(truth=True) == (["p00000", "p00004"], 10)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP VIEW lens_generations; DROP TABLE lens_derivatives",
        "COMMENT ON VIEW lens_generations IS 'version 2'",
        "REVOKE ALL ON lens_derivatives FROM CURRENT_USER",
        "UPDATE lens_derivatives SET changed_at = now() WHERE id = 'kept'",
        "UPDATE lens_derivatives SET changed_at = now() - interval '25 h' WHERE id = 'compared'",
        "DELETE FROM lens_derivatives WHERE id <> 'kept'",
    ],
    ids=["missing", "older", "no right", "not kept", "not compared", "never compared"],
)
def test_without_the_projection_every_row_is_compared(
    site: Site, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    _library(site, 10)
    look = _Looks(site, monkeypatch)
    look()
    site.sql(statement)
    site.sql("UPDATE generations SET asset_url = 'https://example.org/b' WHERE id = 'p00001'")
    assert look(all_rows=True) == (["p00001"], 10)


def test_a_restored_log_is_compared_with_every_row(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    _library(site, 10)
    look = _Looks(site, monkeypatch)
    look()
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM event_logs WHERE partition >= 'p00008'"))
    assert look() == (["p00008", "p00009"], 10)


def test_more_changes_than_are_kept_are_found_among_all_rows(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    _library(site, 10)
    monkeypatch.setattr(backfill, "_MOST_OPEN", 4)
    look = _Looks(site, monkeypatch)
    look()
    site.add_many(["a", "b", "c"], str)
    assert look() == (["a", "b", "c"], 3)
    site.add_many(["d", "e", "f"], str)
    assert look() == (["a", "b", "c", "d", "e", "f"], 16)
    assert look.scanner._truth_at == 0.0


def test_what_is_outdated_comes_last_and_stays_known(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New photos that wait for a library, or a half of it that is forgotten after a restart."""
    _library(site, 10)
    monkeypatch.setenv("LENS_PREVIEW_QUALITY", "60")
    site.add_many(["new"], str)
    scanner = backfill.BackfillScanner(site.pipeline, PREVIEW)
    found = scanner.look(8)
    assert [status.id for status in found.needed] == ["new"]
    assert len(found.outdated) == 7
    assert (found.by_state[State.READY], found.by_state[State.NONE]) == (10, 1)
    # The projection shows them with their files, and as ones to be looked at again.
    update_view(site.pipeline, [], alone=True)
    view = "SELECT preview_path FROM lens_generations WHERE preview_status = 'ready'"
    assert len([path for (path,) in site.sql(view) if path]) == 10
    scanner.make_due()
    assert len(scanner.look(100).outdated) == 10
    # With a setting that says what they were made with, nothing is left to do.
    monkeypatch.setenv("LENS_PREVIEW_QUALITY", "80")
    update_view(site.pipeline, [], alone=True)
    found = backfill.BackfillScanner(site.pipeline, PREVIEW).look(100)
    assert (len(found.needed), len(found.outdated), len(found.open)) == (1, 0, 1)


def test_other_settings_make_every_row_a_candidate(site: Site) -> None:
    """A lower quality that is asked for and never comes."""
    settings = site.pipeline.settings
    smaller = settings.model_copy(update={"preview_edge": settings.preview_edge - 1})
    assert len({PREVIEW.recipe(settings), PREVIEW.recipe(smaller), POSTER.recipe(settings)}) == 3
    assert MASTER.recipe(settings) is None
