"""Schedules: the reconciling backfill, the daily report, and what keeps things small."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from lens_pipeline.core.telemetry import span
from lens_pipeline.defs.jobs import daily_reports, previews, retention_job, retirement
from lens_pipeline.defs.new_rows import DISABLED
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.backfill import adoption_advice, survey
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import DERIVATIVES, Derivative
from lens_pipeline.engine.run_queue import submit_run
from lens_pipeline.engine.run_requests import BACKFILL_PRIORITY, RETRY_PRIORITY, plan_runs
from lens_pipeline.event_log.history import State
from lens_pipeline.event_log.tags import PRIORITY_TAG

# A tick asks for at most so many batches of each kind; the next one asks for the rest.
_BATCHES_A_TICK = 25


def build_backfill(cron: str) -> dg.ScheduleDefinition:
    """The schedule at `cron` (LENS_BACKFILL_CRON).

    It puts its runs into the queue itself: a Dagster schedule may only request runs of one job.
    """

    @dg.schedule(
        name="backfill",
        cron_schedule=cron,
        job=previews,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def backfill(context: dg.ScheduleEvaluationContext, lens: LensResource) -> dg.SkipReason:
        """Compares finished rows with the event log and asks for what is missing or failed."""
        pipeline = lens.pipeline()
        if not pipeline.settings.enabled:
            return dg.SkipReason(DISABLED)
        notes = [_fill_gaps(context, pipeline, derivative) for derivative in DERIVATIVES]
        return dg.SkipReason("; ".join(notes))

    return backfill


def _fill_gaps(
    context: dg.ScheduleEvaluationContext, pipeline: Pipeline, derivative: Derivative
) -> str:
    batch_size = derivative.batch_size(pipeline.settings)
    found = survey(pipeline, derivative, bulk=False, limit=_BATCHES_A_TICK * batch_size)
    if found.unrecorded_old:
        context.log.warning(adoption_advice(derivative, found.unrecorded_old))
    for row in found.invalid:
        context.log.warning("skipped row %r: %s", row.id, row.reason)
    if pipeline.settings.debug:
        context.log.info("%s: %s", derivative.asset, found.by_state)
    if not found.needed:
        return f"{derivative.asset}: nothing to do"
    failed = [s.id for s in found.needed if s.state is State.FAILED]
    missing = [s.id for s in found.needed if s.state is not State.FAILED]
    with span("schedule backfill", {"asset": derivative.asset}):
        runs = [
            submit_run(context.instance, _job(context, derivative), tags, derivative.run_assets)
            for keys, priority in ((failed, RETRY_PRIORITY), (missing, BACKFILL_PRIORITY))
            for tags in plan_runs(
                context.instance, derivative, keys, batch_size, "backfill", priority=priority
            )
        ]
    names = ", ".join(run_id[:8] for run_id in runs)
    return f"{derivative.asset}: {len(found.needed)} in {len(runs)} runs ({names})"


def _job(context: dg.ScheduleEvaluationContext, derivative: Derivative) -> dg.JobDefinition:
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("the backfill needs a loaded repository")
    return context.repository_def.get_job(derivative.job)


@dg.schedule(
    cron_schedule="17 4 * * *",
    job=retirement,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def retire_partitions(
    context: dg.ScheduleEvaluationContext, lens: LensResource
) -> dg.RunRequest | dg.SkipReason:
    """Keeps the partition sets small, once a day at a quiet hour."""
    if not lens.pipeline().settings.enabled:
        return dg.SkipReason(DISABLED)
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


@dg.schedule(
    cron_schedule="20 0 * * *",
    execution_timezone="UTC",
    job=daily_reports,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def daily_report(
    context: dg.ScheduleEvaluationContext, lens: LensResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Reports on the day that has ended, and once more on the one before: by then retries have
    mostly come to an end.
    """
    if not lens.pipeline().settings.enabled:
        yield dg.SkipReason(DISABLED)
        return
    now = context.scheduled_execution_time
    for ago in (2, 1):
        day = (now.astimezone(dt.UTC) - dt.timedelta(days=ago)).date().isoformat()
        yield dg.RunRequest(
            run_key=f"{now.isoformat()} {day}",
            partition_key=day,
            tags={PRIORITY_TAG: str(BACKFILL_PRIORITY)},
        )


@dg.schedule(
    cron_schedule="43 4 * * *",
    job=retention_job,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def retention(
    context: dg.ScheduleEvaluationContext, lens: LensResource
) -> dg.RunRequest | dg.SkipReason:
    """Keeps Dagster's tables small, once a day at a quiet hour."""
    if not lens.pipeline().settings.enabled:
        return dg.SkipReason(DISABLED)
    return dg.RunRequest(
        run_key=context.scheduled_execution_time.isoformat(),
        tags={PRIORITY_TAG: str(BACKFILL_PRIORITY)},
    )
