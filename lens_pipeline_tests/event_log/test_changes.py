"""Reading on in the event log: nothing twice, nothing lost, and as cheap however long it is."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import PREVIEW, assets
from lens_pipeline.derivatives.status import statuses_of_partitions
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log import changes
from lens_pipeline.event_log.changes import ChangeLog, Position
from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.tags import OUTCOME_TAG, PROGRESS_TAG
from lens_pipeline_tests.support.site import Site


@pytest.fixture
def log(site: Site) -> Iterator[ChangeLog]:
    opened = ChangeLog(site.dagster_url, assets())
    yield opened
    opened.close()


def _observe(site: Site, asset: str, *keys: str, **tags: str) -> None:
    for key in keys:
        site.dagster.report_runless_asset_event(
            dg.AssetObservation(asset_key=asset, partition=key, tags=tags)
        )


def test_each_event_is_read_once(site: Site, log: ChangeLog) -> None:
    start = log.latest()
    _observe(site, "preview", "a", "b")
    _observe(site, "poster", "v")
    _observe(site, "somebody_elses", "x")
    first = log.read(start, 100)
    assert (first.touched, first.more) == ({"preview": {"a", "b"}, "poster": {"v"}}, False)
    assert log.read(first.position, 100).touched == {}
    assert log.since(start, 100).touched == first.touched


def test_what_is_too_much_for_one_reading_comes_in_parts(site: Site, log: ChangeLog) -> None:
    position = log.latest()
    keys = [f"k{n}" for n in range(7)]
    _observe(site, "preview", *keys)
    _observe(site, "poster", "v")
    seen: list[str] = []
    more: list[bool] = []
    others: list[bool] = []
    for _ in range(4):
        found = log.read(position, 3)
        seen += sorted(found.touched.get("preview", ()))
        others.append("poster" in found.touched)
        more.append(found.more)
        position = found.position
    assert seen == keys
    assert more == [True, True, False, False]
    # Its event came after those of the other asset.
    assert others == [False, False, True, False]


def test_failures_are_told_from_other_observations(site: Site, log: ChangeLog) -> None:
    start = log.latest()
    _observe(site, "preview", "a", **{OUTCOME_TAG: ObservationKind.RETRY.value})
    _observe(site, "preview", "b", **{OUTCOME_TAG: ObservationKind.FAILED.value})
    found = log.read(start, 100)
    assert found.touched == {"preview": {"a", "b"}}
    assert len(found.failed) == 1


def test_the_end_of_a_run_touches_its_partitions(site: Site, log: ChangeLog) -> None:
    for key in ("a", "b"):
        site.add(key, "https://example.org/a.jpg")
    (run_id,) = RunQueue(site.pipeline, site.dagster, job).submit({PREVIEW: ["a", "b"]}, "api")
    position = log.read(log.latest(), 100).position
    run = site.dagster.get_run_by_id(run_id)
    assert run is not None
    site.dagster.report_run_canceled(run)
    found = log.read(position, 100)
    assert found.touched == {"preview": {"a", "b"}}
    # Its id may not be the last to become visible: read again, and not told again.
    assert found.position.ends == position.ends
    assert log.read(found.position, 100).touched == {}
    # Others who come back with that position do hear of it.
    assert log.since(found.position, 100).touched == {"preview": {"a", "b"}}


def test_an_end_counts_once_the_run_says_so_too(site: Site, log: ChangeLog) -> None:
    """The event is written before the run's status, in a transaction of its own."""
    site.add("a", "https://example.org/a.jpg")
    (run_id,) = RunQueue(site.pipeline, site.dagster, job).submit({PREVIEW: ["a"]}, "api")
    position = log.latest()
    run = site.dagster.get_run_by_id(run_id)
    assert run is not None
    site.dagster.report_run_canceled(run)
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE runs SET status = 'STARTED'"))
    found = log.read(position, 100)
    assert found.touched == {}
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE runs SET status = 'CANCELED'"))
    assert log.read(found.position, 100).touched == {"preview": {"a"}}


def test_positions_as_text() -> None:
    position = Position(tuple(range(1, len(assets()) + 1)), 7)
    assert Position.parse(str(position), len(assets())) == position
    assert not position.is_beyond(position)
    assert Position((9,) * len(assets()), 0).is_beyond(position)


@pytest.mark.parametrize("end", ["", "-", "x", "-99999999999999999999", "-9999999999999999999"])
def test_texts_that_are_no_position(end: str) -> None:
    assert Position.parse("1-2-3-4-5" + end, len(assets())) is None


@pytest.mark.slow
def test_a_long_log_is_read_by_its_indexes(site: Site) -> None:
    """Also of assets that have no events at all, for which the planner likes the primary key."""
    engine = _filled(site)
    asked = {
        "assets": [json.dumps([asset]) for asset in assets()],
        "after": [0] * len(assets()),
        "types": changes.TYPES,
        "limit": 500,
    }
    with engine.begin() as connection:
        for query, values in (
            (changes.NEW_EVENTS, asked),
            (changes.LATEST, {name: asked[name] for name in ("assets", "types")}),
            (changes.NEW_ENDS, {"ends": changes.ENDS, "after": 0, "limit": 500}),
            (changes.LATEST_END, {"ends": changes.ENDS}),
        ):
            plan = connection.execute(sa.text(f"EXPLAIN ANALYZE {query.text}"), values).scalars()
            lines = "\n".join(plan)
            assert "idx_event" in lines
            assert "event_logs_pkey" not in lines
            assert "Seq Scan on event_logs" not in lines


def test_a_look_reads_what_is_new_and_nothing_of_what_was(site: Site, log: ChangeLog) -> None:
    """A feed that gets slower with every photo, four times a second."""
    _filled(site)
    start = log.latest()
    site.add("a", "https://example.org/a.jpg")
    (run_id,) = RunQueue(site.pipeline, site.dagster, job).submit({PREVIEW: ["a"]}, "api")
    site.dagster.add_run_tags(run_id, {PROGRESS_TAG: "10 %"})
    _observe(site, "preview", "a", **{OUTCOME_TAG: ObservationKind.FAILED.value})
    with _asked() as statements:
        found = log.read(start, 500)
        told = statuses_of_partitions(site.pipeline, found.touched)
        assert log.planned(log.progress()) == {run_id: ("preview", "a")}
    assert [status.id for status in told] == ["a"]
    with contextlib.closing(psycopg2.connect(site.dagster_url)) as connection:
        rows = [_rows_read(connection, s) for s in statements if re.search("event_logs|run", s)]
    assert len(rows) >= 6
    assert sum(rows) < 200


def _filled(site: Site) -> sa.Engine:
    """Give Dagster's log a past: 1,000 runs that made 20 previews each."""
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(_PAST))
    return engine


_PAST = f"""
INSERT INTO runs (run_id, status, run_body)
  SELECT n, 'SUCCESS', '{{}}' FROM generate_series(1, 1000) n;
INSERT INTO run_tags (run_id, key, value)
  SELECT n, '{PROGRESS_TAG}', '99 %' FROM generate_series(1, 1000) n;
INSERT INTO event_logs (run_id, event, dagster_event_type, asset_key, partition)
  SELECT 1 + n / 20, '{{}}', type, '["preview"]', n FROM generate_series(0, 19999) n,
    unnest(ARRAY['ASSET_MATERIALIZATION_PLANNED', 'ASSET_MATERIALIZATION']) type;
INSERT INTO event_logs (run_id, event, dagster_event_type)
  SELECT n, '{{}}', 'PIPELINE_SUCCESS' FROM generate_series(1, 1000) n;
INSERT INTO asset_event_tags (asset_key, key, value, event_id)
  SELECT asset_key, 'dagster/data_version', 'r', id FROM event_logs
   WHERE dagster_event_type = 'ASSET_MATERIALIZATION';
ANALYZE runs, run_tags, event_logs, asset_event_tags;
"""


@contextlib.contextmanager
def _asked() -> Iterator[list[str]]:
    """What this process asks any database meanwhile."""
    statements: list[str] = []

    def note(_: Any, cursor: Any, statement: str, values: Any, *_more: Any) -> None:
        text = cursor.mogrify(statement, values).decode()
        if text.lstrip().startswith("SELECT"):
            statements.append(text)

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)


def _rows_read(connection: Any, statement: str) -> float:
    """From tables, whether or not they were wanted."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
        ((plan,),) = cursor.fetchone()
    return _rows_of(plan["Plan"])


def _rows_of(node: Mapping[str, Any]) -> float:
    below = sum(map(_rows_of, node.get("Plans", ())))
    if "Relation Name" not in node:
        return below
    names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return below + node["Actual Loops"] * sum(node.get(name, 0) for name in names)
