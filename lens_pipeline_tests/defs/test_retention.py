"""Old events, runs and ticks go; what anybody reads from them stays as it was."""

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.core.locks import LockSession, lock_id
from lens_pipeline.definitions import defs
from lens_pipeline.defs import retention
from lens_pipeline.defs.partitions import partition_set
from lens_pipeline.defs.retention import Pruned, prune
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.registry import CHECKED_SHOT, PREVIEW
from lens_pipeline.derivatives.status import statuses_of_partitions
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run, submit_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.event_log import pruning
from lens_pipeline.event_log.changes import ChangeLog
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline_tests.defs.test_removal import keys_of, tick
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]
IDS = ("made", "again", "healed", "dead", "later", "canceled", "queued", "adopted", "kept")
IN_40_DAYS = dt.timedelta(days=40)


def _sql(site: Site, statement: str, **values: Any) -> list[Any]:
    """Execute on Dagster's database."""
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement), values)
        return list(result.all()) if result.returns_rows else []


def _submit(site: Site, key: str, further: Mapping[str, str] | None = None) -> dg.DagsterRun:
    (tags,) = plan_runs(site.dagster, PREVIEW, [key], 20, "backfill", force=True)
    job = defs().get_repository_def().get_job("previews")
    run = site.dagster.get_run_by_id(submit_run(site.dagster, job, {**tags, **(further or {})}))
    assert run is not None
    return run


def _check_shot(site: Site, key: str) -> None:
    (tags,) = plan_runs(site.dagster, CHECKED_SHOT, [key], 1, "sensor")
    job = defs().get_repository_def().get_job("shot_checks")
    execute(site.dagster, create_run(site.dagster, job, tags).run_id)


def _past(site: Site, server: HostileServer, photo: Photo) -> str:
    """A site on which everything has happened that can; returns the id of a run under way."""
    # There before the pipeline was.
    site.add("adopted", "https://example.com/x.jpg")
    folder = site.store / "u1" / "previews"
    folder.mkdir(parents=True)
    (folder / "adopted_preview.webp").write_bytes(b"webp")
    site.lens("adopt")
    for name in ("made", "again", "removed", "kept"):
        site.add(name, photo(name))
    site.once()
    site.add("dead", "http://127.0.0.1/none.jpg")
    site.add("later", "http://localhost:9/none.jpg")
    site.once()
    site.add("healed", server.url("/healed.jpg", host="localhost"))
    site.lens("backfill", "healed")
    photo("healed")
    site.lens("retry", "healed")
    assert site.lens("backfill", "--force", "again", "healed").code == 0
    site.lens("backfill", "later")
    site.sql("DELETE FROM generations WHERE id = 'removed'")
    assert tick(site)[0] == ["removed"]
    site.add("canceled", photo("canceled"))
    site.dagster.report_run_canceled(_submit(site, "canceled"))
    site.add("queued", photo("queued"))
    return _submit(site, "queued").run_id


@dataclass(frozen=True)
class Seen:
    """What everybody reads."""

    status: Any
    letters: Any
    feed: list[DerivativeStatus]
    position: str


def _see(site: Site, changes: ChangeLog) -> Seen:
    status = site.lens("status", *IDS, "removed", "--json").json
    found = statuses_of_partitions(site.pipeline, {"preview": [*IDS, "removed"]})
    told = [one for one in found if one.event_id is not None]
    return Seen(status, site.dead_letters(), told, str(changes.latest()))


@pytest.fixture
def changes(site: Site) -> Iterator[ChangeLog]:
    log = ChangeLog(site.dagster_url, registry.assets())
    yield log
    log.close()


def test_what_is_read_is_the_same_before_and_after(
    site: Site,
    server: HostileServer,
    photo: Photo,
    changes: ChangeLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dead letter that comes to life, a preview made anew, a feed that tells old things."""
    monkeypatch.setattr(retention, "_RUNS", 2)
    running = _past(site, server, photo)
    before = _see(site, changes)
    states = {entry["id"]: entry["state"] for entry in before.status["status"]}
    assert states == {
        "made": "ready", "again": "ready", "healed": "ready", "adopted": "ready",
        "kept": "ready", "dead": "dead", "later": "failed", "canceled": "dead",
        "queued": "processing", "removed": None,
    }  # fmt: skip
    made = "SELECT partition, count(*) FROM event_logs WHERE asset_key = '[\"preview\"]' AND"
    made += " dagster_event_type = 'ASSET_MATERIALIZATION' GROUP BY 1 ORDER BY 1"
    of_run = "SELECT id FROM event_logs WHERE run_id = :run ORDER BY id"
    under_way = _sql(site, of_run, run=running)
    runs = {run.run_id: run for run in site.runs()}

    # Nothing is old enough.
    now = dt.datetime.now(dt.UTC)
    assert prune(site.pipeline, now) == Pruned()

    # Killed in the middle: what it had begun is undone, the rest is whole.
    calls: list[int] = []
    delete = pruning.delete_events

    def fail_later(connection: sa.Connection, ids: Any) -> int:
        calls.append(len(ids))
        deleted = delete(connection, ids)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return deleted

    with monkeypatch.context() as broken:
        broken.setattr(pruning, "delete_events", fail_later)
        with pytest.raises(KeyboardInterrupt):
            prune(site.pipeline, now + IN_40_DAYS)
    assert _see(site, changes) == before

    # Another is at it: it is left alone.
    session = LockSession(site.dagster_url)
    assert session.try_all([lock_id("retention")])
    assert not prune(site.pipeline, now + IN_40_DAYS).is_complete
    session.close()

    # Out of time: the next one goes on.
    assert not prune(site.pipeline, now + IN_40_DAYS, most_seconds=0).is_complete
    done = prune(site.pipeline, now + IN_40_DAYS)
    assert done.is_complete
    assert done.events > 20
    assert _see(site, changes) == before

    # One materialization each; what was removed has none.
    assert dict(tuple(row) for row in _sql(site, made)) == dict.fromkeys(
        ("adopted", "again", "healed", "kept", "made"), 1
    )
    assert _sql(site, of_run, run=running) == under_way
    left = {run.run_id for run in site.runs()}
    gone = [runs[run_id] for run_id in runs.keys() - left]
    # A failed one, too, once its file was made by another.
    assert {run.status.value for run in gone} == {"SUCCESS", "FAILURE"}
    # Those that explain what failed are there, with their logs.
    explaining = {
        entry.get("run_id") for entry in before.status["status"] if entry["state"] != "ready"
    } - {None}
    assert explaining <= left
    for run_id in explaining:
        assert site.dagster.all_logs(run_id)
    orphans = (
        "SELECT count(*) FROM asset_event_tags t"
        " WHERE NOT EXISTS (SELECT FROM event_logs e WHERE e.id = t.event_id)"
    )
    assert _sql(site, orphans)[0][0] == 0
    # A second time there is nothing to do, and who was away misses nothing.
    assert prune(site.pipeline, now + IN_40_DAYS).events == 0
    # Dagster's own view of the partitions.
    records = site.dagster.get_status_by_partition(
        dg.AssetKey("preview"), ["made", "dead", "queued"], partition_set("photos")
    )
    assert records is not None
    assert {key: state.value for key, state in records.items() if state} == {
        "made": "MATERIALIZED", "dead": "FAILED", "queued": "IN_PROGRESS",
    }  # fmt: skip


def test_events_may_go_before_their_runs(
    site: Site, photo: Photo, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_RETAIN_EVENTS_DAYS", "10")
    environment.setenv("LENS_RETAIN_RUNS_DAYS", "60")
    site.add("a", photo("a"))
    site.once()
    (run,) = site.runs()
    done = prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    assert (done.runs, done.events > 5) == (0, True)
    assert [one.run_id for one in site.runs()] == [run.run_id]
    assert site.status("a")["state"] == "ready"
    assert prune(site.pipeline, dt.datetime.now(dt.UTC) + 2 * IN_40_DAYS).runs == 1
    assert site.runs() == []
    assert site.status("a")["state"] == "ready"


def test_old_results_of_checks_go_and_the_last_stays(site: Site, photo: Photo) -> None:
    """A table that grows by a row a run for ever, or a check that seems never to have run."""
    for name in ("one", "two"):
        site.add(name, photo(name))
        site.once()
    done = prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    (left,) = _sql(site, "SELECT run_id FROM asset_check_executions")
    assert (done.check_results, left.run_id) == (1, site.materializations("preview")[0].run_id)


def test_old_ticks_go_and_the_last_of_each_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that catches up on schedules of years because it knows of no tick."""
    monkeypatch.setattr(retention, "_TICKS", 2)
    for selector, days in {"sensor": (20, 12, 9, 8, 1), "schedule": (30, 20)}.items():
        for ago in days:
            _sql(
                site,
                "INSERT INTO job_ticks (job_origin_id, selector_id, status, type, timestamp)"
                " VALUES (:s, :s, 'SKIPPED', 'SENSOR',"
                " (now() AT TIME ZONE 'UTC') - make_interval(days => :ago))",
                s=selector,
                ago=ago,
            )
    assert prune(site.pipeline, dt.datetime.now(dt.UTC)).ticks == 5
    left = _sql(site, "SELECT selector_id, count(*) FROM job_ticks GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in left] == [("schedule", 1), ("sensor", 1)]


def test_nothing_is_left_of_what_failed_and_was_deleted(
    site: Site, server: HostileServer, photo: Photo
) -> None:
    """Keys, runs and events of photos that nobody has any more; more with each year."""
    server.put("/bad.jpg", b"no picture")
    for name in ("bad", "good", "never"):
        site.add(name, photo(name))
    site.sql("UPDATE generations SET asset_url = :url WHERE id = 'bad'", url=server.url("/bad.jpg"))
    site.lens("backfill", "bad")
    site.lens("retry", "bad")
    site.lens("backfill", "bad")
    site.lens("backfill", "good")
    site.dagster.add_dynamic_partitions("photos", ["never"])
    Project(site).asset("clip", asset_url="u1/uploads/none.mp4")
    _check_shot(site, "clip")
    assert len(site.runs()) == 4
    # The row of a key that was added just now may be still to come.
    _sql(site, "UPDATE dynamic_partitions SET create_timestamp = now() - interval '1 day'")
    for table in ("generations", "project_assets"):
        site.sql(f"DELETE FROM {table}")
    assert site.lens("remove-missing", "--yes", "--now").code == 0
    assert keys_of(site, "photos") == []
    assert keys_of(site, "shots") == []
    for _ in range(2):  # a mark goes after what it stands for
        prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    assert site.runs() == []
    for table in ("event_logs", "asset_event_tags", "run_tags"):
        assert _sql(site, f"SELECT * FROM {table}") == []
    site.add("good", photo("good"))
    assert site.status("good")["state"] == "none"


def test_what_outlived_its_run_goes_once_it_is_superseded(site: Site, photo: Photo) -> None:
    """Events of runs that are gone, of which no pruning hears again; more with each deletion."""
    for name in ("deleted", "again"):
        site.add(name, photo(name))
    site.once()
    prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    assert site.runs() == []
    site.lens("backfill", "again", "--force")
    site.sql("DELETE FROM generations WHERE id = 'deleted'")
    site.lens("remove-missing", "--yes", "--now")
    for _ in range(2):  # a mark goes after what it stands for
        prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    left = _sql(site, "SELECT partition, dagster_event_type AS type FROM event_logs")
    # Of the original and of the preview.
    assert [tuple(row) for row in left] == [("again", "ASSET_MATERIALIZATION")] * 2
    assert site.status("again")["state"] == "ready"


def test_a_mark_stays_as_long_as_what_it_hides(site: Site, photo: Photo) -> None:
    """A deleted photo that counts as ready again, without its file."""
    site.add("a", photo("a"))
    site.once()
    site.sql("DELETE FROM generations")
    site.lens("remove-missing", "--yes")
    site.add("a", photo("a"))
    _sql(site, "UPDATE runs SET status = 'STARTED'")
    prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    assert site.status("a")["state"] == "none"


def test_a_failed_check_of_a_shot_goes_although_its_row_stays(site: Site) -> None:
    """Runs that nothing depends on, for each unusable upload of years."""
    Project(site).asset("clip", asset_url="u1/uploads/none.mp4")
    _check_shot(site, "clip")
    prune(site.pipeline, dt.datetime.now(dt.UTC) + IN_40_DAYS)
    assert site.runs() == []
    assert _sql(site, "SELECT id FROM event_logs") == []


def test_unfinished_objects_go_a_day_after_the_longest_run(site: Site) -> None:
    """A disk that fills with halves of films; or the half of one that is still being written."""
    longest = registry.most_run_seconds(site.pipeline.settings)
    directory = site.store / ".tmp"
    directory.mkdir()
    for digit, age in {"0": longest + 90_000, "1": longest + 3600}.items():
        path = directory / f"{digit * 32}.part"
        path.write_bytes(b"x")
        os.utime(path, (0, time.time() - age))
    job = defs().get_repository_def().get_job("retention")
    assert job.execute_in_process(instance=site.dagster).success
    assert site.objects() == {f".tmp/{'1' * 32}.part"}


def test_records_of_backfills_go_with_their_last_run(site: Site, photo: Photo) -> None:
    """A list of backfills in Dagster's UI that grows for ever, or a run without its explanation."""
    site.add("a", photo("a"))
    site.dagster.report_run_canceled(_submit(site, "a", {"dagster/backfill": "of-run"}))
    for key, status in {
        "of-run": "FAILED", "done": "COMPLETED_SUCCESS", "going": "REQUESTED", "gone": "CANCELED",
    }.items():  # fmt: skip
        _sql(
            site,
            "INSERT INTO bulk_actions (key, status, timestamp, body)"
            " VALUES (:key, :status, now() AT TIME ZONE 'UTC', '')",
            key=key,
            status=status,
        )
        _sql(
            site, "INSERT INTO backfill_tags (backfill_id, key, value) VALUES (:k, 't', 'v')", k=key
        )
    now = dt.datetime.now(dt.UTC)
    assert prune(site.pipeline, now).backfills == 0
    assert prune(site.pipeline, now + IN_40_DAYS).backfills == 2
    for column, table in (("key", "bulk_actions"), ("backfill_id", "backfill_tags")):
        left = _sql(site, f"SELECT {column} FROM {table} ORDER BY 1")
        assert [row[0] for row in left] == ["going", "of-run"]
