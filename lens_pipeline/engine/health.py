"""Whether Dagster's daemon lives, and what to do about runs while it does not."""

import time
from collections.abc import Mapping
from typing import Protocol

from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._daemon.types import DaemonHeartbeat

from lens_pipeline.core.locks import LockSession, daemon_lock, run_lock

# Dagster's daemons beat every 30 s.
_ALIVE_SECONDS = 90.0
# A run that has not begun may be about to: its creator takes the lock at once, a worker within
# the time after which Dagster gives up on a start.
_STARTING_SECONDS = 60.0
_QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
_BEGUN = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]


class Heartbeats(Protocol):
    """Dagster's instance, or its run storage alone."""

    def get_daemon_heartbeats(self) -> Mapping[str, DaemonHeartbeat]: ...


def daemon_heartbeat_age_seconds(source: Heartbeats) -> float | None:
    """Seconds since the daemon that launches queued runs last beat, None if it never did."""
    heartbeat = source.get_daemon_heartbeats().get(_QUEUE_DAEMON)
    return None if heartbeat is None else time.time() - heartbeat.timestamp


def is_recent(age_seconds: float) -> bool:
    """Whether a daemon whose last heartbeat is so old may be alive."""
    return age_seconds < _ALIVE_SECONDS


def daemon_is_alive(dagster_url: str) -> bool:
    """Whether a daemon takes runs out of the queue now, on whichever machine."""
    session = LockSession(dagster_url)
    try:
        return session.is_held(daemon_lock())
    finally:
        session.close()


def _should_have_begun(record: RunRecord) -> bool:
    if record.dagster_run.status is DagsterRunStatus.STARTED:
        return True
    return time.time() - record.update_timestamp.timestamp() > _STARTING_SECONDS


def fail_abandoned_runs(instance: DagsterInstance, dagster_url: str) -> int:
    """Do the daemon's work of failing runs whose worker is gone; returns how many.

    Without it the files of a killed `lens once` would stay in work for ever where no `lens up`
    runs. Only for when the daemon is not alive.
    """
    session = LockSession(dagster_url)
    try:
        abandoned = [
            record.dagster_run
            for record in instance.get_run_records(RunsFilter(statuses=_BEGUN))
            if _should_have_begun(record)
            and not session.is_held(run_lock(record.dagster_run.run_id))
        ]
    finally:
        session.close()
    for run in abandoned:
        instance.report_run_failed(
            run,
            "The process that executed this run is gone.",
            JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION),
        )
    return len(abandoned)
