"""The thread that interrupts a run which is to end, and no other."""

import time

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.definitions import defs
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_execution import RunWatch
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline_tests.support.site import Site

_POLL_SECONDS = 0.5


@pytest.fixture
def run(site: Site) -> dg.DagsterRun:
    site.add("p1", "u1/x.jpg")
    (tags,) = plan_runs(site.dagster, PREVIEW, ["p1"], 20, "once")
    return create_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)


def _set_status(site: Site, status: str) -> None:
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE runs SET status = :status"), {"status": status})


@pytest.mark.slow
@pytest.mark.parametrize("status", ["CANCELING", "CANCELED", "FAILURE"])
def test_a_run_that_others_ended_is_interrupted(
    site: Site, run: dg.DagsterRun, status: str
) -> None:
    """A worker that goes on with what somebody has cancelled, or the daemon has given up on."""
    _set_status(site, status)
    with RunWatch(site.dagster_url, run.run_id, _POLL_SECONDS), pytest.raises(KeyboardInterrupt):
        time.sleep(30)


@pytest.mark.slow
def test_a_run_that_ends_by_itself_is_not_interrupted(site: Site, run: dg.DagsterRun) -> None:
    """`lens once` that says it was interrupted, because a run failed just as it was looked at."""
    _set_status(site, "FAILURE")
    with RunWatch(site.dagster_url, run.run_id, _POLL_SECONDS) as watch:
        # It has looked once.
        time.sleep(1.3 * _POLL_SECONDS)
        watch.notice(dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, "previews"))
        time.sleep(2 * _POLL_SECONDS)
