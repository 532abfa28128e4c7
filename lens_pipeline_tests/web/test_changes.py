"""Reading on in the event log: nothing twice, nothing lost, and as cheap however long it is."""

import json
from collections.abc import Iterator

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.derivatives import PREVIEW
from lens_pipeline.live import ASSETS
from lens_pipeline.queueing import RunQueue
from lens_pipeline.status import OUTCOME_TAG, ChangeLog, Outcome, Position, changes
from lens_pipeline_tests.pipeline.site import Site


@pytest.fixture
def log(site: Site) -> Iterator[ChangeLog]:
    opened = ChangeLog(site.dagster_url, ASSETS)
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
    for _ in range(4):
        found = log.read(position, 3)
        seen += sorted(found.touched.get("preview", ()))
        more.append(found.more)
        position = found.position
    assert seen == keys
    assert more == [True, True, False, False]


def test_failures_are_told_from_other_observations(site: Site, log: ChangeLog) -> None:
    start = log.latest()
    _observe(site, "preview", "a", **{OUTCOME_TAG: Outcome.RETRY.value})
    _observe(site, "preview", "b", **{OUTCOME_TAG: Outcome.FAILED.value})
    found = log.read(start, 100)
    assert found.touched == {"preview": {"a", "b"}}
    assert len(found.failed) == 1


def test_the_end_of_a_run_touches_its_partitions(site: Site, log: ChangeLog) -> None:
    for key in ("a", "b"):
        site.add(key, "https://example.org/a.jpg")
    (run_id,) = RunQueue(site.pipeline, site.dagster).submit({PREVIEW: ["a", "b"]}, "api")
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
    (run_id,) = RunQueue(site.pipeline, site.dagster).submit({PREVIEW: ["a"]}, "api")
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
    position = Position(tuple(range(1, len(ASSETS) + 1)), 7)
    assert Position.parse(str(position), len(ASSETS)) == position
    assert not position.is_beyond(position)
    assert Position((9,) * len(ASSETS), 0).is_beyond(position)


@pytest.mark.parametrize("end", ["", "-", "x", "-99999999999999999999", "-9999999999999999999"])
def test_texts_that_are_no_position(end: str) -> None:
    assert Position.parse("1-2-3-4-5" + end, len(ASSETS)) is None


def test_a_long_log_is_read_by_its_indexes(site: Site) -> None:
    """Also of assets that have no events at all, for which the planner likes the primary key."""
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO event_logs (run_id, event, dagster_event_type, asset_key, partition)"
                " SELECT '', '{}', 'ASSET_MATERIALIZATION', :asset, n::text"
                " FROM generate_series(1, 20000) n"
            ),
            {"asset": json.dumps(["preview"])},
        )
        connection.execute(sa.text("ANALYZE event_logs"))
    asked = {
        "assets": [json.dumps([asset]) for asset in ASSETS],
        "after": [0] * len(ASSETS),
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
