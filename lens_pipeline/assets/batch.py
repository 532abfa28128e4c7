"""A run's batch of partitions: each file succeeds or fails by itself, and the log says which."""

import logging
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.assets.produce import Metadata, Workshop, produce
from lens_pipeline.assets.renderers import Renderer
from lens_pipeline.catalog import Generation
from lens_pipeline.derivatives import Derivative
from lens_pipeline.engine.events import log_materializations
from lens_pipeline.failures import DerivativeError, Failure, InvalidRow
from lens_pipeline.fetch import Fetcher
from lens_pipeline.gaps import Assessed, assess
from lens_pipeline.locks import LockSession, partition_lock
from lens_pipeline.pipeline import Pipeline
from lens_pipeline.runs import FORCE_TAG, ORIGIN_TAG
from lens_pipeline.scratch import scratch_directory
from lens_pipeline.status import (
    BLAMELESS_TAG,
    ERROR_CLASS_TAG,
    FAILED_REVISION_TAG,
    OUTCOME_TAG,
    PERMANENT_TAG,
    Outcome,
    State,
)

logger = logging.getLogger(__name__)

# How often to look whether another run is done with a partition, seconds.
_BUSY_POLL_SECONDS = 0.5
# Files that are done within so many seconds of each other are recorded together: an event by
# itself costs three transactions.
_LINGER_SECONDS = 0.5


def materialize_batch(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    derivative: Derivative,
    renderer: Renderer,
) -> None:
    """Make the derivative of every partition of the run and record each as soon as it is stored.

    Raises dagster.Failure, with a table of them, if any partition failed.
    """
    batch = _Batch(context, pipeline, derivative)
    with ExitStack() as stack:
        workshop = stack.enter_context(_workshop(pipeline, renderer))
        groups = _as_locked(pipeline.endpoints.dagster_url, derivative, context.partition_keys)
        stack.enter_context(closing(groups))
        for ours in groups:
            batch.work_through(ours, workshop)
    batch.report()


class _Batch:
    """The outcome of a run's partitions."""

    def __init__(
        self, context: dg.AssetExecutionContext, pipeline: Pipeline, derivative: Derivative
    ) -> None:
        self._context = context
        self._pipeline = pipeline
        self._derivative = derivative
        self._failures: dict[str, Failure] = {}
        self._made = 0
        self._up_to_date = 0

    def work_through(self, keys: Sequence[str], workshop: Workshop) -> None:
        """Make what is needed, on as many threads as configured, recording from this one.

        The rows are read here, once the partitions are ours: what was waited for may have changed.
        """
        generations = self._usable_rows(keys)
        wanted = [
            a for a in assess(self._pipeline, self._derivative, generations) if self._wants(a)
        ]
        self._up_to_date += len(generations) - len(wanted)
        if not wanted:
            return
        threads = ThreadPoolExecutor(self._pipeline.settings.threads, "derivative")
        try:
            running = {
                threads.submit(
                    produce,
                    workshop,
                    assessed.generation,
                    self._derivative.object_key(assessed.generation),
                    assessed.revision,
                ): assessed
                for assessed in wanted
            }
            waiting = set(running)
            while waiting:
                done, waiting = _next_done(waiting)
                self._record({future: running[future] for future in done})
        except BaseException:
            workshop.interrupt()
            raise
        finally:
            # The threads must end before their files are taken away.
            threads.shutdown(wait=True, cancel_futures=True)

    def _wants(self, assessed: Assessed) -> bool:
        """Work that people ask for is done; what we start ourselves only if it is not done yet."""
        run = self._context.run
        asked_for = ORIGIN_TAG not in run.tags or FORCE_TAG in run.tags
        return asked_for or assessed.standing.state is not State.READY

    def _usable_rows(self, keys: Sequence[str]) -> list[Generation]:
        kind = self._derivative.kind
        rows = self._pipeline.catalog.finished(kind, keys)
        usable: list[Generation] = []
        for key in keys:
            row = rows.get(key)
            if isinstance(row, Generation):
                usable.append(row)
            else:
                reason = row.reason if row else f"no finished {kind} has the id {key}"
                self._record_failure(key, None, 0, Failure.of(InvalidRow(reason)))
        return usable

    def _record(self, done: Mapping[Future[Metadata], Assessed]) -> None:
        made = [
            dg.AssetMaterialization(
                asset_key=self._derivative.asset,
                partition=assessed.generation.id,
                metadata=future.result(),
                tags=self._derivative.materialization_tags(assessed.revision),
            )
            for future, assessed in done.items()
            if future.exception() is None
        ]
        log_materializations(self._context, made)
        self._made += len(made)
        for future, assessed in done.items():
            error = future.exception()
            if error is None:
                continue
            key = assessed.generation.id
            if not isinstance(error, DerivativeError):  # a fault of ours: say where it is
                self._context.log.error("%s: unforeseen error", key, exc_info=error)
            attempts = assessed.standing.attempts
            self._record_failure(key, assessed.revision, attempts, Failure.of(error))

    def _record_failure(
        self, key: str, revision: str | None, earlier_attempts: int, failure: Failure
    ) -> None:
        """Leave the reason on the partition."""
        self._failures[key] = failure
        tags = {
            OUTCOME_TAG: Outcome.FAILED.value,
            ERROR_CLASS_TAG: failure.error_class,
            PERMANENT_TAG: str(failure.permanent).lower(),
            BLAMELESS_TAG: str(failure.blameless).lower(),
        }
        self._context.log_event(
            dg.AssetObservation(
                asset_key=self._derivative.asset,
                partition=key,
                metadata={
                    "error": failure.error,
                    "error_class": failure.error_class,
                    "permanent": failure.permanent,
                    "attempt": earlier_attempts + 1,
                    "run_id": self._context.run.run_id,
                },
                tags=tags | ({FAILED_REVISION_TAG: revision} if revision else {}),
            )
        )

    def report(self) -> None:
        """Say how the batch went, and fail the run if any file failed."""
        self._context.log.info(
            "%d made, %d up to date, %d failed", self._made, self._up_to_date, len(self._failures)
        )
        if not self._failures:
            return
        total = self._made + self._up_to_date + len(self._failures)
        first_key, first = next(iter(self._failures.items()))
        raise dg.Failure(
            description=(
                f"{len(self._failures)} of {total} failed; the others are done."
                f" First: {first_key}: {first.error}"
            ),
            metadata={"failures": _table(self._failures), "made": self._made},
            allow_retries=False,
        )


def _table(failures: dict[str, Failure]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "partition": key,
                    "error_class": failure.error_class,
                    "permanent": failure.permanent,
                    "error": failure.error,
                }
            )
            for key, failure in failures.items()
        ]
    )


def _next_done(
    waiting: set[Future[Metadata]],
) -> tuple[set[Future[Metadata]], set[Future[Metadata]]]:
    """Wait for the first of `waiting` and shortly for more; returns those done and the others."""
    wait(waiting, return_when=FIRST_COMPLETED)
    done, others = wait(waiting, timeout=_LINGER_SECONDS)
    return done, others


def _as_locked(
    dagster_url: str, derivative: Derivative, keys: Sequence[str]
) -> Generator[list[str], None, None]:
    """Yield the keys in groups as their partitions become ours: first the free ones, then those
    that another run was working on, once it is done with them.

    Nothing is held while waiting, or two runs could wait for each other.
    """
    waiting = {partition_lock(derivative.asset, key): key for key in keys}
    locks = LockSession(dagster_url)
    try:
        while waiting:
            ours = locks.try_all(waiting)
            if ours:
                yield [key for lock, key in waiting.items() if lock in ours]
                waiting = {lock: key for lock, key in waiting.items() if lock not in ours}
                try:
                    locks.release(ours)
                except SQLAlchemyError as error:
                    # The server gave them back when the session ended; the work on them is done.
                    logger.warning("lost the session that held partition locks: %s", error)
                    locks.abandon()
                    locks = LockSession(dagster_url)
            if waiting:
                time.sleep(_BUSY_POLL_SECONDS)
    finally:
        locks.close()


@contextmanager
def _workshop(pipeline: Pipeline, renderer: Renderer) -> Iterator[Workshop]:
    settings = pipeline.settings
    cancelled = threading.Event()
    with (
        scratch_directory(settings.scratch) as scratch,
        Fetcher(
            pipeline.store,
            timeout_seconds=settings.fetch_timeout_seconds,
            max_bytes=settings.max_source_bytes,
            allow_hosts=settings.fetch_allow_hosts,
            cancelled=cancelled,
        ) as fetcher,
    ):
        yield Workshop(fetcher, renderer, pipeline.store, scratch, cancelled)
