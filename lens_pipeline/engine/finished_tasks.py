"""The end of a provider's task: writes its row and asks for its derivative."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.provider_tasks import TaskRow
from lens_pipeline.catalog.rows import Generation
from lens_pipeline.derivatives.originals import ExtraFile, extra_observation
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import ORIGINALS, of_kind
from lens_pipeline.derivatives.status import assess
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.history import State
from lens_pipeline.event_log.tags import CREDITS_TAG
from lens_pipeline.providers.models import Task, TaskState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinishedTask:
    changed: bool
    status: str
    run_ids: tuple[str, ...] = ()
    problem: str | None = None
    """Why nothing can be made of the row."""


def finish_task(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    row: TaskRow,
    task: Task,
    *,
    queue: RunQueue | None = None,
    origin: str = "",
) -> FinishedTask | None:
    """Write the row and ask for its derivative; None if the row is gone.

    A repetition, also at the same time, changes nothing: the row is locked meanwhile.
    The run is prepared before the finished row is visible, so that the sensors find it in work, and
    begins after that, so that it finds the row. Without `queue` the sensors take it up. Raises
    CatalogError; of a task with several results also SQLAlchemyError.
    """
    if not task.state.is_final:
        return FinishedTask(False, row.status)
    runs: list[dg.DagsterRun] = []
    try:
        with pipeline.catalog.recording(row, task.urls[0] if task.urls else None) as recorded:
            if recorded is None:
                return None
            if recorded.generation and task.state is TaskState.SUCCESS:
                # No row and no sensor tells of further results: without them nothing is written.
                with nullcontext() if task.urls[1:] else _optional(row):
                    _observe_extra(pipeline, instance, recorded.generation, task.urls)
                if queue is not None:
                    with _optional(row):
                        runs = _prepared(pipeline, queue, recorded.generation, origin)
    except BaseException:
        if queue is not None:
            queue.discard(runs)
        raise
    if queue is not None:
        with _optional(row):
            queue.release(runs)
    # After the commit: what is repeated before it would count twice.
    if task.credits is not None and recorded.changed and recorded.generation:
        with _optional(row):
            _observe_credits(instance, recorded.generation, task.credits)
    run_ids = tuple(run.run_id for run in runs)
    logger.info("task %s: row %r %s, %d runs", task.id, row.id, recorded.status, len(run_ids))
    return FinishedTask(recorded.changed, recorded.status, run_ids, recorded.problem)


def _observe_extra(
    pipeline: Pipeline, instance: dg.DagsterInstance, row: Generation, urls: Sequence[str]
) -> None:
    """Record all results but the first, unless that was done; runs of the original keep them."""
    original, extra = ORIGINALS[row.kind], list(urls[1:])
    told = pipeline.log.extra_urls(original.asset, [row.id]).get(row.id, {})
    if told.get("extra_urls", []) == extra:
        return
    revision = original.revision_of(urls[0])
    files = [ExtraFile(n, revision, url) for n, url in enumerate(extra, start=2)]
    instance.report_runless_asset_event(extra_observation(row, files))


def _observe_credits(instance: dg.DagsterInstance, row: Generation, cost: float) -> None:
    """Record what its task cost, for the daily report; no row holds that."""
    observation = dg.AssetObservation(
        asset_key=ORIGINALS[row.kind].asset,
        partition=row.id,
        description=f"Its task cost {cost:g} credits.",
        metadata={"credits": cost},
        tags={CREDITS_TAG: f"{cost:g}"},
    )
    instance.report_runless_asset_event(observation)


@contextmanager
def _optional(row: TaskRow) -> Iterator[None]:
    """Without Dagster's database, the sensors take the row up later."""
    try:
        yield
    except SQLAlchemyError as error:
        logger.warning("row %r waits for the sensors or the backfill: %s", row.id, error)


def _prepared(
    pipeline: Pipeline, queue: RunQueue, generation: Generation, origin: str
) -> list[dg.DagsterRun]:
    if not pipeline.settings.enabled:
        return []
    wanted = {
        derivative: [status.id]
        for derivative in of_kind(generation.kind)
        if derivative.is_on(pipeline)
        for status in assess(pipeline, derivative, [generation])
        if status.state in (State.NONE, State.FAILED) and not status.waits
    }
    return queue.prepare(wanted, origin, owner=generation.user_id)
