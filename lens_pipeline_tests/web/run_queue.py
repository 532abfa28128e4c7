"""Works off the run queue in the place of daemon and workers."""

import dagster as dg
from dagster import DagsterEvent, DagsterEventType

from lens_pipeline.engine.run_execution import execute
from lens_pipeline_tests.support.site import Site


def execute_queued(site: Site) -> int:
    """Launch and execute every queued run here, oldest first; returns how many there were."""
    queued = site.dagster.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    for run in reversed(queued):
        starting = DagsterEvent(DagsterEventType.PIPELINE_STARTING.value, run.job_name)
        site.dagster.report_dagster_event(starting, run.run_id)
        execute(site.dagster, run.run_id)
    return len(queued)
