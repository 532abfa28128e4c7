"""Single ticks of the sensors and of the backfill schedule."""

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Kind, Position
from lens_pipeline.definitions import defs
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor, removed_generations
from lens_pipeline.derivatives.cursor import Cursor
from lens_pipeline.derivatives.registry import DERIVATIVES, POSTER, PREVIEW, Derivative
from lens_pipeline.derivatives.status import assess
from lens_pipeline.engine.run_queue import submit_run
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.ticker import Ticker

URL = "https://example.com/x.jpg"


@pytest.fixture
def ticker(site: Site) -> Ticker:
    return Ticker(site)


def test_a_new_row_is_asked_for_once(site: Site, ticker: Ticker) -> None:
    """A run for each tick that a file takes."""
    assert ticker.tick() == []
    site.add("a", URL)
    assert ticker.tick() == ["a"]
    assert ticker.tick() == []
    site.add("b", URL)
    assert ticker.tick() == ["b"]


def test_a_row_that_commits_late_is_found(site: Site, ticker: Ticker) -> None:
    """A photo whose transaction took longer than its neighbour's, and that nobody sees any more."""
    site.add("a", URL)
    assert ticker.tick() == ["a"]
    site.sql(
        "INSERT INTO generations (id, user_id, type, status, asset_url, updated_at)"
        " VALUES ('late', 'u1', 'photo', 'success', :url, now() - interval '30 s')",
        url=URL,
    )
    assert ticker.tick() == ["late"]


def test_a_row_in_the_future_hides_nothing(site: Site, ticker: Ticker) -> None:
    """A wrong clock on one machine that stops every preview until its date has come."""
    site.add("future", URL, updated_at="2100-01-01T00:00:00Z")
    assert ticker.tick() == ["future"]
    site.add("a", URL)
    assert ticker.tick() == ["a"]
    assert ticker.tick() == []


@pytest.mark.parametrize("moment", ["0001-01-01", "-infinity", "0044-03-15 BC"])
def test_a_row_of_the_first_moment_hides_nothing(site: Site, ticker: Ticker, moment: str) -> None:
    """A host that writes its zero time, after which no tick succeeds."""
    site.add("zero", URL, updated_at=moment)
    assert ticker.tick() == ["zero"]
    site.add("a", URL)
    assert ticker.tick() == ["a"]
    assert ticker.tick() == []


def test_a_row_without_a_time_of_its_change_has_that_of_its_creation(site: Site) -> None:
    """New rows that all count as a library to be adopted."""
    site.add_many([f"p{number:03}" for number in range(501)], lambda _: URL)
    site.sql("UPDATE generations SET updated_at = '0001-01-01'")
    assert len(_backfill(site)) == 25


def test_a_cursor_in_the_future_hides_nothing(site: Site, ticker: Ticker) -> None:
    """A database server whose clock was fast for a minute, and a site that then waits for hours."""
    place = Position(dt.datetime.now(dt.UTC) + dt.timedelta(hours=4), "seen")
    ticker.cursor = Cursor(place).dump()
    site.add("a", URL)
    assert ticker.tick() == ["a"]
    site.add("b", URL)
    assert ticker.tick() == ["b"]


def test_many_rows_in_the_future_hide_nothing(
    site: Site, ticker: Ticker, environment: pytest.MonkeyPatch
) -> None:
    """The same, with more of them than a tick looks at."""
    environment.setenv("LENS_BATCH_SIZE", "2")
    for number in range(12):
        site.add(f"future-{number:02}", URL, updated_at=f"2100-01-01T00:00:{number:02}Z")
    assert len(ticker.tick()) == 10
    site.add("a", URL)
    assert "a" in ticker.tick()


def test_a_row_without_any_time_is_asked_for_once(site: Site, ticker: Ticker) -> None:
    """A host's old row that is asked for every second, or never."""
    site.sql("ALTER TABLE generations ALTER COLUMN created_at DROP NOT NULL")
    site.add("timeless", URL, created_at=None, updated_at=None)
    assert ticker.tick() == ["timeless"]
    assert ticker.tick() == []


@pytest.mark.slow
def test_a_burst_of_rows_of_one_moment_is_paged_through(
    site: Site, ticker: Ticker, environment: pytest.MonkeyPatch
) -> None:
    """A bulk import of which the first page is done, or done again and again."""
    environment.setenv("LENS_BATCH_SIZE", "4")
    names = [f"p{number:03}" for number in range(90)]
    site.add_many(names, lambda _: URL)
    asked: list[str] = []
    while found := ticker.tick():
        assert len(found) <= 5 * 4
        asked += found
    assert Counter(asked) == dict.fromkeys(names, 1)
    assert {len(batch) for batch in ticker.requested} <= {2, 4}
    assert len(ticker.requested) == 23


def test_a_row_that_cannot_be_used_is_named_once(
    site: Site, ticker: Ticker, capfd: pytest.CaptureFixture[str]
) -> None:
    """A hundred lines about one row, among which nobody finds another."""
    for name in ("bad/1", "bad/2"):
        site.add(name, URL)
    for _ in range(3):
        assert ticker.tick() == []
    said = capfd.readouterr()
    assert (said.out + said.err).count("skipped row 'bad/1'") == 1
    assert (said.out + said.err).count("skipped row") == 2
    _backfill(site)
    said = capfd.readouterr()
    assert (said.out + said.err).count("2 rows cannot be used, as 'bad/1'") == 1


def test_unfinished_rows_wait_for_their_end(site: Site, ticker: Ticker) -> None:
    """A preview of a photo that is still being made."""
    site.add("a", None, status="processing", updated_at="2026-01-01T00:00:00Z")
    assert ticker.tick() == []
    site.sql(
        "UPDATE generations SET status = 'success', asset_url = :url, updated_at = now()", url=URL
    )
    assert ticker.tick() == ["a"]


@pytest.mark.slow
def test_a_changed_source_is_asked_for_again(
    site: Site, ticker: Ticker, photo: Callable[[str], str]
) -> None:
    """A re-generated photo that shows its old preview until the next backfill."""
    site.add("a", photo("a"))
    site.once()
    assert ticker.tick() == []
    site.sql("UPDATE generations SET asset_url = :url, updated_at = now()", url=photo("a2"))
    assert ticker.tick() == ["a"]
    assert ticker.tick() == []


@pytest.mark.slow
def test_a_source_that_is_changed_back_is_asked_for_again(
    site: Site, ticker: Ticker, photo: Callable[[str], str]
) -> None:
    """A photo that shows the wrong preview until the next backfill."""
    urls = [photo(name) for name in ("first", "second", "first")]
    site.add("a", urls[0])
    for url in urls:
        site.sql("UPDATE generations SET asset_url = :url, updated_at = now()", url=url)
        assert ticker.tick() == ["a"]
        assert ticker.tick() == []
        for run in site.runs():
            site.dagster.delete_run(run.run_id)
        assert site.once()["ready"] == 1
        assert ticker.tick() == []


def test_a_run_that_was_interrupted_is_asked_for_again_a_few_times(
    site: Site, ticker: Ticker
) -> None:
    """A photo that waits for the backfill, or a run a second while no worker can take any."""
    site.add("a", URL)
    asked = 0
    for _ in range(9):
        asked += len(ticker.tick())
        for run in site.runs():
            site.dagster.report_run_failed(run, "It never began.")
    assert asked == 4


def test_keys_that_others_add_meanwhile_change_no_run(site: Site, ticker: Ticker) -> None:
    """A webhook during a tick, after which a range leaves out files or takes others along."""
    site.add_many(["a", "b", "c"], lambda _: URL)
    added = ticker.tick(lambda: site.dagster.add_dynamic_partitions("photos", ["x", "b", "y"]))
    assert sorted(added) == ["a", "b", "c"]
    assert site.dagster.get_dynamic_partitions("photos") == [*added, "x", "y"]


def test_a_cancelled_file_is_asked_for_again_once_its_source_has_changed(
    site: Site, ticker: Ticker
) -> None:
    """A run cancelled by mistake that shuts a photo out whatever its user makes of it later."""
    site.add("a", URL)
    assert ticker.tick() == ["a"]
    _cancel_runs(site)
    assert ticker.tick() == []
    site.sql("UPDATE generations SET asset_url = :url, updated_at = now()", url=URL + "?2")
    assert ticker.tick() == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "left_alone"), [(501, True), (500, False)])
def test_a_library_of_old_rows_is_left_to_people(
    site: Site,
    ticker: Ticker,
    rows: int,
    left_alone: bool,
    capfd: pytest.CaptureFixture[str],
    environment: pytest.MonkeyPatch,
) -> None:
    """Thousands of existing previews that are made again because of a first start."""
    environment.setenv("LENS_BATCH_SIZE", "1000")
    site.add_many([f"old-{number:04}" for number in range(rows)], lambda _: URL, age="3 days")
    site.add("new", URL)
    asked = ticker.tick()
    assert (len(asked), "new" in asked) == (1 if left_alone else 501, True)
    said = capfd.readouterr()
    assert ("lens adopt" in said.out + said.err) == left_alone


@pytest.mark.parametrize(
    "sensor", [derivative_sensor(PREVIEW), derivative_sensor(POSTER), removed_generations]
)
def test_a_disabled_pipeline_starts_nothing(
    site: Site, environment: pytest.MonkeyPatch, sensor: dg.SensorDefinition
) -> None:
    """A maintenance window with traffic."""
    site.add("a", URL)
    environment.setenv("LENS_ENABLED", "false")
    with dg.build_sensor_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        result = sensor(context)
    assert isinstance(result, dg.SkipReason)
    assert "LENS_ENABLED" in str(result.skip_message)


@pytest.mark.slow
def test_a_disabled_pipeline_still_works_by_hand(
    site: Site, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """A switch that also takes the tools away."""
    environment.setenv("LENS_ENABLED", "false")
    site.add("a", photo("a"))
    said = _tick(site, PREVIEW)
    assert isinstance(said, dg.SkipReason)
    assert "LENS_ENABLED" in str(said.skip_message)
    assert site.once()["ready"] == 1


@pytest.mark.parametrize("sensor", [derivative_sensor(PREVIEW), removed_generations])
def test_a_table_that_cannot_be_read_is_no_empty_table(
    site: Site, sensor: dg.SensorDefinition
) -> None:
    """A tick that says all is well, or deletes everything, while the database is being moved."""
    site.add("a", "")
    site.once()
    site.sql("ALTER TABLE generations RENAME TO moved")
    if sensor is removed_generations:
        _materialize(site, "a")
    with (
        dg.build_sensor_context(
            instance=site.dagster, resources={"lens": LensResource()}
        ) as context,
        pytest.raises(CatalogError, match="generations"),
    ):
        sensor(context)


def test_the_backfill_queues_gaps_in_batches_and_only_once(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """The same gap queued every five minutes while the first run waits."""
    environment.setenv("LENS_BATCH_SIZE", "4")
    site.add_many([f"p{number}" for number in range(10)], lambda _: URL)
    requests = _backfill(site)
    assert {request.tags["lens/origin"] for request in requests} == {"backfill"}
    assert {request.tags["dagster/priority"] for request in requests} == {"-2"}
    assert len({request.run_key for request in requests}) == 3
    assert _backfill(site) == []


def test_each_job_has_a_backfill_whose_runs_dagster_takes(site: Site) -> None:
    """A schedule that Dagster shows as skipped although it started runs."""
    repository = defs().get_repository_def()
    backfills = {s.name: s.job_name for s in repository.schedule_defs if "backfill" in s.name}
    assert backfills == {f"backfill_{job}": job for job in {d.job for d in DERIVATIVES}}
    site.add("a", URL)
    for name in backfills:
        with dg.build_schedule_context(
            instance=site.dagster, resources={"lens": LensResource()}
        ) as context:
            data = repository.get_schedule_def(name).evaluate_tick(context)
        asked = [dict(request.tags) for request in data.run_requests or []]
        assert bool(asked) == (name == "backfill_previews") == (data.skip_message is None)
        assert all(tags["dagster/asset_partition_range_start"] == "a" for tags in asked)


def test_the_backfill_asks_for_what_is_outdated_last(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """A new photo that waits behind a library that a new quality has made outdated."""
    site.add("a", URL)
    row = site.pipeline.catalog.library_rows(["a"])["a"].generation()
    (status,) = assess(site.pipeline, PREVIEW, [row])
    tags = PREVIEW.materialization_tags(row, status, site.pipeline.settings)
    site.dagster.report_runless_asset_event(
        dg.AssetMaterialization("preview", partition="a", tags=tags)
    )
    assert _backfill(site) == []
    environment.setenv("LENS_PREVIEW_QUALITY", "60")
    (request,) = _backfill(site)
    assert request.tags["dagster/priority"] == "-4"
    # It waits in the queue.
    assert _backfill(site) == []
    assert site.status("a")["state"] == "ready"


@pytest.mark.slow
def test_the_backfill_leaves_a_failed_file_alone_until_it_is_due(
    site: Site, server: HostileServer
) -> None:
    """Eight attempts within half an hour at a source that is back after that."""
    server.answer_first("/a.jpg", Answer(503, headers={"Retry-After": "600"}))
    site.add("a", server.url("/a.jpg", host="localhost"))
    site.once()
    entry = site.status("a")
    delay = dt.datetime.fromisoformat(entry["retry_at"]) - dt.datetime.now(dt.UTC)
    assert 50 < delay.total_seconds() <= 60
    assert _backfill(site) == []
    site.age_events("61 s")
    assert [request.tags["dagster/priority"] for request in _backfill(site)] == ["-1"]


@pytest.mark.slow
def test_the_backfill_asks_for_a_bounded_number(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """A queue of ten thousand runs in front of the next new photo."""
    environment.setenv("LENS_BATCH_SIZE", "2")
    site.add_many([f"p{number:03}" for number in range(60)], lambda _: URL)
    assert len(_backfill(site)) == 25


def test_the_backfill_leaves_an_unadopted_library_alone(site: Site) -> None:
    """The schedule that does what the sensor was careful not to."""
    site.add_many([f"old-{number:04}" for number in range(501)], lambda _: URL, age="3 days")
    assert _backfill(site) == []


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["after", "between"])
def test_a_tick_reads_by_an_index(site: Site, reading: str) -> None:
    """Sensors that read and sort the whole table every second."""
    site.add_many([f"p{number:05}" for number in range(20_000)], lambda _: URL, age="1 hour")
    site.sql("UPDATE generations SET updated_at = updated_at + random() * interval '1 hour'")
    site.sql("ANALYZE generations")
    catalog = site.pipeline.catalog
    statements: list[str] = []

    @event.listens_for(catalog._engine, "after_cursor_execute")
    def keep(_: object, cursor: Any, *__: object) -> None:
        statements.append(cursor.query.decode())

    position = Position(catalog.now(), "")
    statements.clear()
    if reading == "after":
        catalog.after(Kind.PHOTO, position, 100)
    else:
        catalog.between(Kind.PHOTO, position.finished_at - dt.timedelta(seconds=60), position, 100)
    (statement,) = statements
    engine = sa.create_engine(site.database_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN " + statement.replace("%", "%%")).scalars().all()
    assert "generations_finished_at_id" in "\n".join(plan), plan


def _tick(site: Site, derivative: Derivative) -> Any:
    """What the schedule of the derivative answers."""
    schedule = defs().get_repository_def().get_schedule_def(f"backfill_{derivative.job}")
    with dg.build_schedule_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        return schedule(context)


def _backfill(site: Site) -> list[dg.RunRequest]:
    """A tick for previews, whose runs are queued as the daemon does."""
    said = _tick(site, PREVIEW)
    requests = [] if isinstance(said, dg.SkipReason) else said
    for request in requests:
        submit_run(site.dagster, defs().get_repository_def().get_job("previews"), request.tags)
    return requests


def _cancel_runs(site: Site) -> None:
    for run in site.runs():
        site.dagster.report_run_canceled(run)


def _materialize(site: Site, key: str) -> None:
    site.dagster.report_runless_asset_event(dg.AssetMaterialization("preview", partition=key))
