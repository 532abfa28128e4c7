"""A run's batch of partitions: each file succeeds or fails by itself, and the log says which."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager

import dagster as dg

from lens_pipeline.assets.produce import Metadata, Workshop, produce
from lens_pipeline.assets.renderers import Renderer
from lens_pipeline.catalog import Generation
from lens_pipeline.derivatives import Derivative
from lens_pipeline.failures import DerivativeError, Failure, InvalidRow
from lens_pipeline.fetch import Fetcher
from lens_pipeline.gaps import Assessed, assess
from lens_pipeline.locks import LockSession, partition_lock
from lens_pipeline.pipeline import Pipeline
from lens_pipeline.runs import FORCE_TAG, ORIGIN_TAG
from lens_pipeline.scratch import scratch_directory
from lens_pipeline.status import (
    ERROR_CLASS_TAG,
    FAILED_REVISION_TAG,
    OUTCOME_TAG,
    PERMANENT_TAG,
    Outcome,
    State,
)

# How often to look whether another run is done with a partition, seconds.
_BUSY_POLL_SECONDS = 0.5


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
    keys = list(context.partition_keys)
    rows = pipeline.catalog.finished(derivative.kind, keys)
    generations: list[Generation] = []
    for key in keys:
        row = rows.get(key)
        if isinstance(row, Generation):
            generations.append(row)
        else:
            reason = row.reason if row else f"no finished {derivative.kind} has the id {key}"
            batch.record_failure(key, None, 0, Failure.of(InvalidRow(reason)))

    with ExitStack() as stack:
        locks = LockSession(pipeline.endpoints.dagster_url)
        stack.callback(locks.close)
        workshop = stack.enter_context(_workshop(pipeline, renderer))
        for ours in _as_locked(locks, derivative, generations):
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

    def work_through(self, generations: Sequence[Generation], workshop: Workshop) -> None:
        """Make what is needed, on as many threads as configured, recording from this one."""
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
            for future in as_completed(running):
                self._record(running[future], future)
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

    def _record(self, assessed: Assessed, future: Future[Metadata]) -> None:
        error = future.exception()
        key = assessed.generation.id
        if error is None:
            self._context.log_event(
                dg.AssetMaterialization(
                    asset_key=self._derivative.asset,
                    partition=key,
                    metadata=future.result(),
                    tags=self._derivative.materialization_tags(assessed.revision),
                )
            )
            self._made += 1
        else:
            if not isinstance(error, DerivativeError):  # a fault of ours: say where it is
                self._context.log.error("%s: unforeseen error", key, exc_info=error)
            self.record_failure(
                key, assessed.revision, assessed.standing.attempts, Failure.of(error)
            )

    def record_failure(
        self, key: str, revision: str | None, earlier_attempts: int, failure: Failure
    ) -> None:
        """Leave the reason on the partition."""
        self._failures[key] = failure
        tags = {
            OUTCOME_TAG: Outcome.FAILED.value,
            ERROR_CLASS_TAG: failure.error_class,
            PERMANENT_TAG: str(failure.permanent).lower(),
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


def _as_locked(
    locks: LockSession, derivative: Derivative, generations: Sequence[Generation]
) -> Iterator[list[Generation]]:
    """Yield the rows in groups as their partitions become ours: first the free ones, then those
    that another run was working on, once it is done with them."""
    waiting = {partition_lock(derivative.asset, row.id): row for row in generations}
    while waiting:
        ours = locks.try_all(waiting)
        if ours:
            yield [row for lock, row in waiting.items() if lock in ours]
        for lock in ours:
            del waiting[lock]
        if waiting:
            time.sleep(_BUSY_POLL_SECONDS)


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
