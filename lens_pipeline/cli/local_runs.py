"""Finds and makes derivatives in this process, for `lens once` and `lens backfill`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dagster as dg

from lens_pipeline.catalog.rows import UnusableRow
from lens_pipeline.derivatives.backfill import adoption_advice, survey
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import LOCAL, QUEUE_TAG, Derivative
from lens_pipeline.derivatives.status import assess, describe, status_pages, usable
from lens_pipeline.derivatives.store_audit import stored_objects
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.event_log.history import DerivativeStatus, State


@dataclass(frozen=True, slots=True)
class FailedItem:
    id: str
    kind: str
    error: str
    error_class: str


@dataclass(slots=True)
class Result:
    """Numbers of files; at the end `found` = `ready` + `failed` + `skipped`."""

    found: int = 0
    ready: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[FailedItem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one kind; `known` are those of the given ids that are finished."""

    derivative: Derivative
    ids: list[str]
    invalid: list[UnusableRow]
    advice: str | None = None
    known: frozenset[str] = frozenset()


def find_work(
    pipeline: Pipeline,
    derivative: Derivative,
    *,
    bulk: bool,
    limit: int | None,
    force: bool,
    lost: bool = False,
    ids: Sequence[str] = (),
) -> Work:
    """The rows that are missing or failed; `ids` restricts them, `bulk` is that of `survey`.

    `force` adds ready ones, and dead letters among `ids`; `lost` adds ready ones whose
    object is not in the store.
    """
    if ids:
        rows = pipeline.catalog.finished(derivative.kind, ids)
        invalid = [row for row in rows.values() if isinstance(row, UnusableRow)]
        found = assess(pipeline, derivative, usable(list(rows.values())))
        wanted = _wanted(pipeline, found, force=force, lost=lost)
        if force:
            wanted += [s.id for s in found if s.state is State.DEAD and not s.waits_for]
        return Work(derivative, wanted[:limit], invalid, known=frozenset(rows))
    if force or lost:
        invalid = []
        every = [
            key
            for page in status_pages(pipeline, derivative, invalid)
            for key in _wanted(pipeline, page, force=force, lost=lost)
        ]
        return Work(derivative, every[:limit], invalid)
    surveyed = survey(pipeline, derivative, bulk=bulk, limit=limit)
    old = surveyed.unrecorded_old
    advice = adoption_advice(derivative, old) if old else None
    return Work(derivative, [status.id for status in surveyed.needed], surveyed.invalid, advice)


def _wanted(
    pipeline: Pipeline, found: Sequence[DerivativeStatus], *, force: bool, lost: bool
) -> list[str]:
    ready = [s for s in found if s.state is State.READY and not s.waits_for]
    again = {status.id for status in ready} if force or lost else set()
    if lost and not force:
        again -= stored_objects(pipeline, ready).keys()
    return [status.id for status in found if status.id in again or status.is_missing]


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
        for start in range(0, len(work.ids), size):
            keys = work.ids[start : start + size]
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
    for status in statuses:
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
