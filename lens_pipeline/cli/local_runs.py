"""Makes derivatives in this process, for `lens once` and `lens backfill`."""

import time
from collections.abc import Callable, Sequence

import dagster as dg

from lens_pipeline.cli.local_work import FailedItem, Result, Work
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import LOCAL, QUEUE_TAG, Derivative
from lens_pipeline.derivatives.status import assess, describe, usable
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import of_runs, plan_runs
from lens_pipeline.event_log.history import DerivativeStatus, State


def work_off(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    find_job: Callable[[str], dg.JobDefinition],
    works: Sequence[Work],
    *,
    origin: str,
    force: bool,
    result: Result,
    progress: Callable[[Result, Sequence[DerivativeStatus]], None],
) -> None:
    """Execute the runs for `works` and add to `result`.

    `progress` gets it after each batch, with the statuses of that.
    """
    result.found += sum(len(work.ids) + len(work.invalid) for work in works)
    result.skipped += sum(len(work.invalid) for work in works)
    result.failures += [
        FailedItem(row.id, work.derivative.kind, row.reason, "InvalidRow")
        for work in works
        for row in work.invalid
    ]
    started = time.monotonic() - result.seconds
    for work in works:
        if not work.ids:
            continue
        job = find_job(work.derivative.job)
        size = work.derivative.batch_size(pipeline.settings)
        groups = of_runs(pipeline, work.derivative, work.ids)
        for keys in (ids[n : n + size] for ids in groups for n in range(0, len(ids), size)):
            for tags in plan_runs(instance, work.derivative, keys, size, origin, force=force):
                local = {**tags, QUEUE_TAG: LOCAL}
                assets = work.derivative.run_assets
                run_id = create_run(instance, job, local, assets, silent=True).run_id
                execute(instance, run_id)
                _raise_if_interrupted(instance, run_id)
            made = _count(pipeline, work.derivative, keys, result)
            result.seconds = round(time.monotonic() - started, 3)
            progress(result, made)
    result.seconds = round(time.monotonic() - started, 3)


def _raise_if_interrupted(instance: dg.DagsterInstance, run_id: str) -> None:
    """Dagster reports an interrupted run as failed, but Ctrl-C must end the command."""
    run = instance.get_run_by_id(run_id)
    if run is not None and run.tags.get("dagster/failure_reason") == "UNEXPECTED_TERMINATION":
        raise KeyboardInterrupt


def _count(
    pipeline: Pipeline, derivative: Derivative, keys: Sequence[str], result: Result
) -> list[DerivativeStatus]:
    counted = usable(list(pipeline.catalog.finished(derivative.kind, keys).values()))
    statuses = describe(pipeline, assess(pipeline, derivative, counted))
    for status in (status.wanted for status in statuses):
        if status.state is State.READY:
            result.ready += 1
        elif status.state in (State.FAILED, State.DEAD):
            result.failed += 1
            result.failures.append(
                FailedItem(status.id, derivative.kind, status.error or "", status.error_class or "")
            )
        else:
            result.skipped += 1
    result.skipped += len(keys) - len(counted)
    return statuses
