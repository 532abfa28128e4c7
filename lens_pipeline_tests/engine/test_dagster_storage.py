"""Dagster's storage on PostgreSQL: what ours does differently."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest.mock import patch

import dagster as dg
import dagster_postgres
import psycopg2.extensions
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
)
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_alembic_config
from sqlalchemy import event
from sqlalchemy.exc import ProgrammingError

from lens_pipeline.cli.role import become
from lens_pipeline.core import postgres
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.definitions import defs
from lens_pipeline.derivatives.registry import (
    PREVIEW,
    REPORT_ASSET,
    REPORT_DAYS,
    backfill_schedules,
)
from lens_pipeline.engine.dagster_storage.event_log_storage import LensEventLogStorage
from lens_pipeline.engine.dagster_storage.pool import create_pool, shared_pool
from lens_pipeline.engine.dagster_storage.storage import has_current_tables, upgrade_tables
from lens_pipeline.engine.instance import LOCATION, dagster_instance
from lens_pipeline.engine.processes.notify import NOTIFY, RunQueueListener
from lens_pipeline.engine.run_queue import submit_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.settings import load
from lens_pipeline_tests.support.site import Databases, Site, eventually


def materialized(asset: str, partition: str) -> dg.EventLogEntry:
    materialization = dg.AssetMaterialization(
        asset, partition=partition, tags={"dagster/data_version": f"of {partition}", "x": "y"}
    )
    return dg.EventLogEntry(
        error_info=None,
        level=20,
        user_message="",
        run_id=RUNLESS_RUN_ID,
        timestamp=time.time(),
        dagster_event=DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=RUNLESS_JOB_NAME,
            event_specific_data=StepMaterializationData(materialization),
        ),
    )


@pytest.fixture
def event_log(site: Site) -> LensEventLogStorage:
    storage = site.dagster.event_log_storage
    assert isinstance(storage, LensEventLogStorage)
    return storage


# What the server fills in.
_STAMPS = sa.text(
    """
    SELECT table_name, column_name FROM information_schema.columns
     WHERE table_schema = 'public' AND data_type = 'timestamp without time zone'
       AND column_default IS NOT NULL AND table_name <> 'secondary_indexes'
    """
)


def count(site: Site, table: str) -> int:
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0


def test_a_batch_may_be_of_several_assets(site: Site, event_log: LensEventLogStorage) -> None:
    """An asset whose latest materialization is that of another."""
    keys = [("b", "1"), ("a", "1"), ("b", "2"), ("a", "2"), ("b", "3")]
    event_log.store_event_batch([materialized(asset, key) for asset, key in keys])
    for asset, latest, expected in (("a", "2", ["2", "1"]), ("b", "3", ["3", "2", "1"])):
        made = site.materializations(asset)
        assert [entry.asset_materialization.partition for entry in made] == expected  # pyright: ignore[reportOptionalMemberAccess]
        (record,) = site.dagster.get_asset_records([dg.AssetKey(asset)])
        entry = record.asset_entry.last_materialization
        assert entry is not None
        assert entry.asset_materialization is not None
        assert entry.asset_materialization.partition == latest
        assert record.asset_entry.last_materialization_storage_id is not None
        tags = event_log.get_event_tags_for_asset(dg.AssetKey(asset))
        versions = [tag["dagster/data_version"] for tag in tags]
        assert versions == [f"of {key}" for key in reversed(expected)]


def test_each_event_of_an_asset_has_a_millisecond_of_its_own(
    site: Site, event_log: LensEventLogStorage
) -> None:
    """Six files of a run, of which Dagster's UI shows one."""
    now = time.time()
    at_once = [materialized("preview", f"p{number}")._replace(timestamp=now) for number in range(6)]
    event_log.store_event_batch(at_once[:4])
    for entry in at_once[4:]:
        event_log.store_event(entry)
    stored = site.materializations("preview")
    assert len({int(entry.timestamp * 1000) for entry in stored}) == len(stored) == 6
    assert [entry.timestamp for entry in stored] == sorted(e.timestamp for e in stored)[::-1]
    # A clock that was set back sets back the events.
    event_log.store_event(at_once[0]._replace(timestamp=now - 60))
    assert site.materializations("preview")[0].timestamp == now - 60


@pytest.mark.parametrize(("was", "are"), [("STOPPED", "STOPPED"), ("RUNNING", None)])
def test_an_upgrade_keeps_reports_and_a_backfill_that_is_off(
    site: Site, was: str, are: str | None
) -> None:
    """Files that are made although a person had switched that off, and reports that are gone."""
    for day in ("2026-02-02", "2026-02-01"):
        earlier = dg.AssetMaterialization(REPORT_ASSET, partition=day)
        site.dagster.report_runless_asset_event(earlier)
    location = GrpcServerCodeLocationOrigin("localhost", 1, location_name=LOCATION)
    origin = RemoteRepositoryOrigin(location, "__repository__").get_instigator_origin("backfill")
    data = ScheduleInstigatorData("*/5 * * * *", time.time())
    before = InstigatorState(origin, InstigatorType.SCHEDULE, InstigatorStatus[was], data)
    site.dagster.add_instigator_state(before)
    assert site.lens("migrate").code == 0
    assert site.dagster.get_dynamic_partitions(REPORT_DAYS) == ["2026-02-01", "2026-02-02"]
    states = {one.instigator_name: one for one in site.dagster.all_instigator_state()}
    names = backfill_schedules()
    assert {states[name].status.name if name in states else None for name in names} == {are}
    for state in (states[name] for name in names if name in states):
        site.dagster.update_instigator_state(state.with_status(InstigatorStatus.RUNNING))
    assert site.lens("migrate").code == 0
    later = [s for s in site.dagster.all_instigator_state() if s.instigator_name in names]
    assert all(state.is_running for state in later)


def test_an_event_and_its_tags_are_stored_together_or_not_at_all(
    site: Site, event_log: LensEventLogStorage
) -> None:
    """A materialization without its revision, which is then made again."""
    event_log.store_event(materialized("a", "0"))  # it knows now that the table is there
    stored = [count(site, table) for table in ("event_logs", "asset_event_tags")]
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE asset_event_tags RENAME TO hidden"))
    try:
        with pytest.raises(ProgrammingError, match="asset_event_tags"):
            event_log.store_event(materialized("a", "1"))
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE hidden RENAME TO asset_event_tags"))
    assert [count(site, table) for table in ("event_logs", "asset_event_tags")] == stored


@pytest.mark.slow
def test_the_keys_of_a_set_are_those_that_others_left(site: Site) -> None:
    """A range that takes along partitions that are gone, or leaves out new ones."""
    others = DagsterPostgresStorage(site.dagster_url, should_autocreate_tables=False)
    there = others.event_log_storage
    there.add_dynamic_partitions("photos", ["b", "a", "c"])
    assert site.dagster.get_dynamic_partitions("photos") == ["b", "a", "c"]
    there.add_dynamic_partitions("photos", ["d", "a"])
    assert site.dagster.get_dynamic_partitions("photos") == ["b", "a", "c", "d"]
    # At once: a range from its old place would begin elsewhere.
    there.delete_dynamic_partition("photos", "a")
    there.add_dynamic_partitions("photos", ["a"])
    assert site.dagster.get_dynamic_partitions("photos") == ["b", "c", "d", "a"]
    there.delete_dynamic_partition("photos", "a")
    eventually(lambda: site.dagster.get_dynamic_partitions("photos") == ["b", "c", "d"], 5)
    site.dagster.delete_dynamic_partition("photos", "b")
    assert site.dagster.get_dynamic_partitions("photos") == ["c", "d"]
    there.delete_dynamic_partition("photos", "c")
    there.delete_dynamic_partition("photos", "d")
    eventually(lambda: site.dagster.get_dynamic_partitions("photos") == [], 5)
    there.add_dynamic_partitions("photos", ["a"])
    assert site.dagster.get_dynamic_partitions("photos") == ["a"]


@pytest.fixture
def pool(site: Site) -> Iterator[sa.Engine]:
    engine = create_pool(site.dagster_url)
    yield engine
    engine.dispose()


def test_a_connection_that_the_server_closed_is_not_used(site: Site, pool: sa.Engine) -> None:
    """An event that is lost because PostgreSQL was restarted."""

    def whose() -> int:
        with pool.connect() as connection:
            return connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0

    first = whose()
    assert whose() == first
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.scalar(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    assert whose() != first


def sessions(site: Site, name: str) -> int:
    """How many there are of this name in both databases."""
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    databases = [sa.make_url(url).database for url in (site.database_url, site.dagster_url)]
    statement = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = :name AND datname = ANY(:databases)"
    )
    with engine.connect() as connection:
        return connection.scalar(statement, {"name": name, "databases": databases}) or 0


def test_instances_of_a_process_share_their_connections(site: Site) -> None:
    """A code server, which makes an instance a tick, that takes all that the server has."""
    instances = []  # kept, as the garbage that they leave is for a while
    for _ in range(8):
        with dagster_instance(load()[0]) as instance:
            instance.get_runs_count()
            instances.append(instance)
    # Threads of Dagster's may want a second one at the same moment.
    assert 1 <= sessions(site, "lens-pipeline-dagster") <= 3


def test_a_web_server_keeps_the_one_pool(site: Site) -> None:
    """The Dagster UI with three pools, which know nothing of a lost server."""
    shared = shared_pool(site.dagster_url)
    with dagster_instance(load()[0]) as instance:
        instance.optimize_for_webserver(15_000, pool_recycle=3600, max_overflow=20)
        storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        assert [storage._engine for storage in storages] == [shared] * 3  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        # Connections that are there already keep what they have.
        shared.dispose()
        with shared.connect() as connection:
            assert connection.scalar(sa.text("SHOW statement_timeout")) == "15s"


def test_a_child_does_not_use_its_parents_connections(site: Site) -> None:
    """Two processes that talk to the server on one socket."""
    parent = shared_pool(site.dagster_url)
    assert shared_pool(site.dagster_url) is parent
    with multiprocessing.get_context("fork").Pool(1) as child:
        assert child.apply(_pool_id, (site.dagster_url,)) != id(parent)


def _pool_id(url: str) -> int:
    return id(shared_pool(url))


def test_a_worker_forks_without_an_open_connection(site: Site) -> None:
    """Runs that read each other's rows, because their processes inherited one session."""
    loaded = load()[0]
    with patch.dict(os.environ):
        become("worker-previews", loaded, resolve(loaded, broker=False))
    assert sessions(site, "lens-pipeline") == 0


def notified(listener: RunQueueListener, seconds: float = 10) -> bool:
    """Whether a notification came within `seconds`."""
    started = time.monotonic()
    listener.wait(seconds, threading.Event())
    return time.monotonic() - started < seconds


def test_a_run_that_comes_to_the_queue_notifies_the_daemon(site: Site) -> None:
    """A free worker that waits for the daemon's next look."""
    site.add("a", "https://example.com/x.jpg")
    (tags,) = plan_runs(site.dagster, PREVIEW, ["a"], 20, "backfill")
    with closing(RunQueueListener(site.dagster_url)) as listener:
        assert not notified(listener, 0.1)
        run_id = submit_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)
        assert notified(listener)
        while notified(listener, 0.1):
            pass
        run = site.dagster.get_run_by_id(run_id)
        assert run is not None
        site.dagster.report_run_canceled(run)
        assert notified(listener)


def test_a_listener_survives_the_server(site: Site, pool: sa.Engine) -> None:
    """A daemon that never looks at its queue again."""
    end_all = sa.text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'lens-pipeline-run-queue'"
    )
    with closing(RunQueueListener(site.dagster_url)) as listener, pool.connect() as connection:
        assert not notified(listener, 0.1)
        connection.execute(end_all).all()
        for _ in range(3):  # hears of the end, finds the connection closed, listens anew
            listener.wait(0.1, threading.Event())
        connection.execute(NOTIFY)
        assert notified(listener)


@pytest.mark.slow
def test_tables_of_an_older_version_are_brought_up_to_this_one(site: Site) -> None:
    """An upgrade of Dagster after which every run fails."""
    assert has_current_tables(site.dagster_url)
    assert not upgrade_tables(site.dagster_url)
    scripts = ScriptDirectory.from_config(pg_alembic_config(dagster_postgres.__file__))
    newest = scripts.get_revision("head")
    assert newest is not None
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :older"),
            {"older": newest.down_revision},
        )
    assert not has_current_tables(site.dagster_url)
    check = site.lens("migrate", "--check")
    assert (check.code, "tables of another Dagster version" in check.out) == (1, True)
    assert "Dagster's tables were brought up to this version" in site.lens("migrate").out
    assert has_current_tables(site.dagster_url)
    assert site.lens("migrate", "--check").code == 0


def test_a_client_that_is_lost_while_it_connects_leaves_no_transaction(site: Site) -> None:
    """A session that stays for two hours: cut off in SQLAlchemy's own first queries."""
    said: list[tuple[str, bool]] = []

    class Telling(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            said.append((str(query), self.connection.autocommit))
            super().execute(query, vars)

    engine = postgres.connect("tests", site.dagster_url)

    @event.listens_for(engine, "do_connect")
    def tell(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        parameters["cursor_factory"] = Telling

    with engine.connect():
        pass
    engine.dispose()
    assert said[0] == (postgres.SESSION_SETTINGS, True)
    assert len(said) > 1


@pytest.mark.slow
def test_times_are_right_on_a_server_with_another_time_zone(
    site: Site, databases: Databases, photo: Callable[[str], str]
) -> None:
    """Fresh runs that look five hours old, so that Dagster's monitor fails them."""
    name = sa.make_url(site.dagster_url).database
    databases.disconnect(str(name))
    databases.execute(f"ALTER DATABASE {name} SET timezone = 'America/New_York'")
    try:
        site.add("a", photo("a"))
        began = time.time()
        assert site.once()["ready"] == 1
    finally:
        databases.execute(f"ALTER DATABASE {name} RESET timezone")
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        columns = connection.execute(_STAMPS).all()
        stamps = [
            f"{table}.{column}: {stamp}"
            for table, column in columns
            for stamp in connection.scalars(
                sa.text(
                    f"SELECT {column} FROM {table}"
                    f" WHERE abs(extract(epoch FROM {column}) - :began) > 60"
                ),
                {"began": began},
            )
        ]
    assert ("runs", "create_timestamp") in [tuple(column) for column in columns]
    assert stamps == []
