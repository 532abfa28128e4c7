"""Which workers may take runs, and how many runs they take together."""

import signal
from pathlib import Path

import pytest

from lens_pipeline.core.locks import LockSession, queue_id
from lens_pipeline.derivatives.release import Release
from lens_pipeline.engine.workers import membership
from lens_pipeline.engine.workers.membership import WorkerRegistration, await_release, publish
from lens_pipeline.settings import Settings, load
from lens_pipeline_tests.support.site import Site, eventually

OURS = Release((("LENS_STORE_URL", "s3://a"), ("dagster", "1.13.27"), ("lens-pipeline", "0.1.0")))


def test_a_release_is_the_same_wherever_the_settings_are() -> None:
    """Hosts with homes and sizes of their own that take no work."""
    one = Settings(home=Path("/a"), store_url="s3://b", preview_concurrency=1)
    two = Settings(home=Path("/c"), store_url="s3://b", preview_concurrency=9)
    assert Release.of(one).id == Release.of(two).id
    assert Release.from_json(Release.of(one).to_json()) == Release.of(one)


@pytest.mark.parametrize(
    "changed",
    [
        {"preview_edge": 512},
        {"master_compatibility": "source"},
        {"master_loudness": "off"},
        {"store_url": "s3://other"},
    ],
)
def test_what_makes_other_files_is_another_release(changed: dict[str, object]) -> None:
    """Previews of two sizes that replace each other for ever, or go to a store nobody reads."""
    given = {"store_url": "s3://b"}
    ours, theirs = Release.of(Settings(**given)), Release.of(Settings(**given | changed))  # pyright: ignore[reportArgumentType]
    assert ours.id != theirs.id
    (name,) = changed
    assert theirs.differences(ours).startswith(f"LENS_{name.upper()} is ")
    assert ";" not in theirs.differences(ours)


@pytest.mark.slow
def test_a_worker_that_does_not_match_is_refused(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """A worker left from the last version that makes files the sensors hold for outdated."""
    environment.setattr(membership, "_AWAIT_SECONDS", 0.0)
    await_release(site.dagster_url, OURS, pytest.fail)  # nothing was published yet
    publish(site.dagster, OURS)
    await_release(site.dagster_url, OURS, pytest.fail)
    environment.setenv("LENS_BROKER_URL", "redis://localhost:1")
    refused = site.lens("worker", "--queue", "previews")
    assert refused.code == 2
    (line,) = (line for line in refused.err.splitlines() if "waiting" not in line)
    assert "LENS_STORE_URL is file://" in line
    assert "not s3://a" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [(["status", "a"], 1), (["once"], 2), (["worker", "--queue", "previews"], 2)],
)
def test_only_looks_go_to_tables_of_another_dagster(
    site: Site, environment: pytest.MonkeyPatch, command: list[str], code: int
) -> None:
    """Statements that fail half-way because a column is not there."""
    environment.setenv("LENS_BROKER_URL", "redis://localhost:1")
    session = LockSession(site.dagster_url)
    execute = session._connection.exec_driver_sql
    current = execute("SELECT version_num FROM alembic_version").scalar()
    # The one before.
    execute("UPDATE alembic_version SET version_num = 'f495c27d5019'")
    try:
        told = site.lens(*command)
    finally:
        execute("UPDATE alembic_version SET version_num = %s", (current,))
        session.close()
    assert (told.code, "`lens migrate`" in told.err) == (code, code == 2)


@pytest.mark.slow
def test_members_count_while_they_live_and_match(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """Runs begun for workers that are gone, and none for those that have come."""
    environment.setattr(membership, "_LOOK_SECONDS", 0.05)
    stopped: list[int] = []
    environment.setattr(membership.os, "kill", lambda _, number: stopped.append(number))
    runs = site.pipeline.runs
    queue = queue_id("previews", OURS.id)
    publish(site.dagster, OURS)
    first, second = (
        WorkerRegistration(site.dagster_url, OURS, "previews", slots) for slots in (3, 4)
    )
    for member in (first, second):
        member.start()
    assert runs.slots() == {}  # without the broker they can do nothing
    first.connected()
    second.connected()
    eventually(lambda: runs.slots() == {queue: 7}, 10)
    second.disconnected()
    eventually(lambda: runs.slots() == {queue: 3}, 10)
    _end_sessions(site)
    eventually(lambda: runs.slots() == {queue: 3}, 10, "the return")
    assert not stopped
    publish(site.dagster, Release.of(load()[0]))
    # Both, each the last thing its thread does: one that is late would stop the tests themselves.
    eventually(lambda: len(stopped) == 2, 10)
    assert stopped == [signal.SIGTERM] * 2
    eventually(lambda: runs.slots() == {}, 10)
    assert second.problem is not None
    assert first.problem is not None
    assert "LENS_STORE_URL is s3://a, not file://" in first.problem


def _end_sessions(site: Site) -> None:
    session = LockSession(site.dagster_url)
    session._connection.exec_driver_sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'lens-pipeline-locks' AND pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    session.close()
