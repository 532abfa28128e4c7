"""Care for runs while no Dagster daemon lives."""

import time
from contextlib import closing

from dagster import DagsterInstance, DagsterRunStatus, RunRecord, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason

from lens_pipeline.core.locks import LockSession, run_lock

# A run is locked before Dagster gives up on its start.
_STARTING_SECONDS = 60.0
_BEGUN = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]


def fail_abandoned_runs(instance: DagsterInstance, dagster_url: str) -> int:
    """Fail the runs whose worker is gone, as the daemon does; returns how many.

    Else the files of a killed `lens once` would stay in work. Not while a daemon lives.
    """
    with closing(LockSession(dagster_url)) as session:
        abandoned = [
            record.dagster_run
            for record in instance.get_run_records(RunsFilter(statuses=_BEGUN))
            if _should_have_begun(record)
            and not session.is_held(run_lock(record.dagster_run.run_id))
        ]
    for run in abandoned:
        instance.report_run_failed(
            run,
            "The process that executed this run is gone.",
            JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION),
        )
    return len(abandoned)


def _should_have_begun(record: RunRecord) -> bool:
    if record.dagster_run.status is DagsterRunStatus.STARTED:
        return True
    return time.time() - record.update_timestamp.timestamp() > _STARTING_SECONDS
