"""The schedules: the backfill, the daily report, and what keeps tables and sets small."""

import datetime as dt
from collections.abc import Callable

import dagster as dg

from lens_pipeline.core.telemetry import span
from lens_pipeline.defs.jobs import daily_reports, retention_job, retirement
from lens_pipeline.defs.labels import OWNERS, code_of
from lens_pipeline.defs.new_rows import DISABLED
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.backfill import adoption_advice, scanner
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.engine.run_queue import submit_run
from lens_pipeline.engine.run_requests import BACKFILL_PRIORITY, RETRY_PRIORITY, plan_runs
from lens_pipeline.event_log.history import State
from lens_pipeline.event_log.tags import PRIORITY_TAG

# Most batches of each derivative in one tick.
_BATCHES_A_TICK = 25
_LOW_PRIORITY = {PRIORITY_TAG: str(BACKFILL_PRIORITY)}

Evaluation = dg.SkipReason | dg.RunRequest | list[dg.RunRequest]
Evaluate = Callable[[dg.ScheduleEvaluationContext, Pipeline], Evaluation]


def _schedule(cron: str, *, job_name: str, timezone: str | None = None):
    """The schedule is skipped while LENS_ENABLED is false."""

    def build(evaluate: Evaluate) -> dg.ScheduleDefinition:
        @dg.schedule(
            name=evaluate.__name__,
            description=evaluate.__doc__,
            cron_schedule=cron,
            execution_timezone=timezone,
            job_name=job_name,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            owners=OWNERS,
            metadata=code_of(evaluate),
        )
        def schedule(context: dg.ScheduleEvaluationContext, lens: LensResource) -> Evaluation:
            pipeline = lens.pipeline()
            if not pipeline.settings.enabled:
                return dg.SkipReason(DISABLED)
            return evaluate(context, pipeline)

        return schedule

    return build


def build_backfill(cron: str) -> dg.ScheduleDefinition:
    """Queues runs itself: a Dagster schedule requests runs of one job."""

    @_schedule(cron, job_name=registry.PREVIEW.job)
    def backfill(context: dg.ScheduleEvaluationContext, pipeline: Pipeline) -> dg.SkipReason:
        """Compares finished rows with the event log and requests what is missing or failed."""
        notes = [_fill_gaps(context, pipeline, derivative) for derivative in registry.DERIVATIVES]
        return dg.SkipReason("; ".join(notes))

    return backfill


def _fill_gaps(
    context: dg.ScheduleEvaluationContext, pipeline: Pipeline, derivative: Derivative
) -> str:
    batch_size = derivative.batch_size(pipeline.settings)
    limit = _BATCHES_A_TICK * batch_size
    found = scanner(pipeline, derivative).look(limit)
    if found.unrecorded_old:
        context.log.warning(adoption_advice(derivative, found.unrecorded_old))
    if found.invalid:
        context.log.warning(
            "%s: %d rows cannot be used, as %r: %s; `lens dead-letters` lists them",
            derivative.asset, len(found.invalid), found.invalid[0].id, found.invalid[0].reason,
        )  # fmt: skip
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


@_schedule("17 4 * * *", job_name=retirement.name)
def retire_partitions(context: dg.ScheduleEvaluationContext, _: Pipeline) -> dg.RunRequest:
    """Keeps the partition sets small, once a day at a quiet hour."""
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


@_schedule("20 0 * * *", job_name=daily_reports.name, timezone="UTC")
def daily_report(context: dg.ScheduleEvaluationContext, _: Pipeline) -> list[dg.RunRequest]:
    """Reports on the day that has ended, and again on the one before, whose retries are over."""
    now = context.scheduled_execution_time
    days = [(now.astimezone(dt.UTC) - dt.timedelta(days=ago)).date().isoformat() for ago in (2, 1)]
    return [
        dg.RunRequest(
            run_key=f"{now.isoformat()} {day}", partition_key=day, tags=dict(_LOW_PRIORITY)
        )
        for day in days
    ]


@_schedule("43 4 * * *", job_name=retention_job.name)
def retention(context: dg.ScheduleEvaluationContext, _: Pipeline) -> dg.RunRequest:
    """Keeps Dagster's tables small, once a day at a quiet hour."""
    run_key = context.scheduled_execution_time.isoformat()
    return dg.RunRequest(run_key=run_key, tags=dict(_LOW_PRIORITY))
