"""The schedules: the backfills, the daily report, and what keeps tables and sets small."""

import datetime as dt
from collections.abc import Callable

import dagster as dg

from lens_pipeline.core.telemetry import span
from lens_pipeline.defs.jobs import daily_reports, object_checks, retention_job, retirement
from lens_pipeline.defs.labels import OWNERS, code_of
from lens_pipeline.defs.new_rows import DISABLED
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.backfill import adoption_advice, scanner
from lens_pipeline.derivatives.originals import unfinished_originals
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative, Original
from lens_pipeline.engine.run_requests import (
    BACKFILL_PRIORITY,
    OUTDATED_PRIORITY,
    RETRY_PRIORITY,
    added_batches,
    of_runs,
    run_request,
)
from lens_pipeline.event_log.history import State
from lens_pipeline.event_log.tags import PRIORITY_TAG

# Most batches of each derivative in one tick.
_BATCHES_A_TICK = 25
_DAY = dt.timedelta(days=1)
_LOW_PRIORITY = {PRIORITY_TAG: str(BACKFILL_PRIORITY)}

Evaluation = dg.SkipReason | dg.RunRequest | list[dg.RunRequest]
Evaluate = Callable[[dg.ScheduleEvaluationContext, Pipeline], Evaluation]


def _schedule(cron: str, *, job_name: str, name: str | None = None, timezone: str | None = None):
    """The schedule is skipped while LENS_ENABLED is false."""

    def build(evaluate: Evaluate) -> dg.ScheduleDefinition:
        @dg.schedule(
            name=name or evaluate.__name__,
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


def backfill_schedules(cron: str) -> list[dg.ScheduleDefinition]:
    """One a job: that is what a Dagster schedule requests runs of."""
    return [
        _backfill_schedule(name, job, cron) for name, job in registry.backfill_schedules().items()
    ]


def _backfill_schedule(name: str, job: str, cron: str) -> dg.ScheduleDefinition:
    derivatives = [entry for entry in registry.DERIVATIVES if entry.job == job]

    @_schedule(cron, job_name=job, name=name)
    def backfill(context: dg.ScheduleEvaluationContext, pipeline: Pipeline) -> Evaluation:
        """Compares finished rows with the event log: requests what is missing, failed, outdated."""
        requests = [
            request
            for derivative in derivatives
            if derivative.is_on(pipeline)
            for request in _missing_runs(context, pipeline, derivative)
        ]
        for original in (one for one in registry.ORIGINALS.values() if one.job == job):
            requests += _original_runs(context, pipeline, original)
        return requests or dg.SkipReason("No run is called for.")

    return backfill


def _missing_runs(
    context: dg.ScheduleEvaluationContext, pipeline: Pipeline, derivative: Derivative
) -> list[dg.RunRequest]:
    batch_size = derivative.batch_size(pipeline.settings)
    found = scanner(pipeline, derivative).look(_BATCHES_A_TICK * batch_size)
    if found.unrecorded_old:
        context.log.warning(adoption_advice(derivative, found.unrecorded_old))
    if found.invalid:
        context.log.warning(
            "%s: %d rows cannot be used, as %r: %s; `lens dead-letters` lists them",
            derivative.asset, len(found.invalid), found.invalid[0].id, found.invalid[0].reason,
        )  # fmt: skip
    if pipeline.settings.debug:
        context.log.info("%s: %s", derivative.asset, found.by_state)
    if not found.needed and not found.outdated:
        return []
    turns = (
        ([s for s in found.needed if s.state is State.FAILED], RETRY_PRIORITY),
        ([s for s in found.needed if s.state is not State.FAILED], BACKFILL_PRIORITY),
        (found.outdated, OUTDATED_PRIORITY),
    )
    with span("schedule backfill", {"asset": derivative.asset}):
        return [
            run_request(derivative, batch, statuses, "backfill", priority)
            for statuses, priority in (({s.id: s for s in turn}, rank) for turn, rank in turns)
            for keys in of_runs(pipeline, derivative, list(statuses))
            for batch in added_batches(context.instance, derivative, keys, batch_size)
        ]


def _original_runs(
    context: dg.ScheduleEvaluationContext, pipeline: Pipeline, original: Original
) -> list[dg.RunRequest]:
    size = original.batch_size(pipeline.settings)
    found = unfinished_originals(pipeline, original, _BATCHES_A_TICK * size)
    statuses = {status.id: status for status in found}
    return [
        run_request(original, batch, statuses, "backfill", RETRY_PRIORITY)
        for batch in added_batches(context.instance, original, list(statuses), size)
    ]


@_schedule("17 4 * * *", job_name=retirement.name)
def retire_partitions(context: dg.ScheduleEvaluationContext, _: Pipeline) -> dg.RunRequest:
    """Keeps the partition sets small, once a day at a quiet hour."""
    return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())


@_schedule("20 0 * * *", job_name=daily_reports.name, timezone="UTC")
def daily_report(context: dg.ScheduleEvaluationContext, pipeline: Pipeline) -> Evaluation:
    """Reports on the day that has ended, and again on the one before, whose retries are over."""
    now = context.scheduled_execution_time
    midnight = dt.datetime.combine(now.astimezone(dt.UTC), dt.time(), dt.UTC)
    ends = [end for end in (midnight - _DAY, midnight) if pipeline.catalog.has_finished(end)]
    days = [(end - _DAY).date().isoformat() for end in ends]
    context.instance.add_dynamic_partitions(registry.REPORT_DAYS, days)
    requests = [
        dg.RunRequest(
            run_key=f"{now.isoformat()} {day}", partition_key=day, tags=dict(_LOW_PRIORITY)
        )
        for day in days
    ]
    return requests or dg.SkipReason("No row has finished yet.")


@_schedule("43 4 * * *", job_name=retention_job.name)
def retention(context: dg.ScheduleEvaluationContext, _: Pipeline) -> dg.RunRequest:
    """Keeps Dagster's tables small, once a day at a quiet hour."""
    run_key = context.scheduled_execution_time.isoformat()
    return dg.RunRequest(run_key=run_key, tags=dict(_LOW_PRIORITY))


@_schedule("29 4 * * *", job_name=object_checks.name)
def objects_intact(context: dg.ScheduleEvaluationContext, _: Pipeline) -> dg.RunRequest:
    """Looks daily whether a sample of the stored files is as it was stored."""
    run_key = context.scheduled_execution_time.isoformat()
    return dg.RunRequest(run_key=run_key, tags=dict(_LOW_PRIORITY))
