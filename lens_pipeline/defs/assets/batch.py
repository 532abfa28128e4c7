"""Materializes the partitions of a run and records the outcome of each."""

import logging
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from contextvars import copy_context
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.rows import Kind, Row, ScaledVideo, UnusableRow
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.core.locks import LockSession, partition_lock
from lens_pipeline.core.logs import FILES, bound
from lens_pipeline.core.telemetry import TRACE_TAG, add_stages, add_wait, report, span
from lens_pipeline.defs import checks
from lens_pipeline.defs.assets.materializer import BatchContext, Materializer, Metadata
from lens_pipeline.defs.assets.originals import Originals, Transfers
from lens_pipeline.defs.assets.progress import RunProgress
from lens_pipeline.defs.assets.provenance import Provenance
from lens_pipeline.defs.assets.renditions import RenditionMaterializer
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import MASTER, Derivative, Original
from lens_pipeline.derivatives.removal import delete_outputs, removal_of
from lens_pipeline.derivatives.status import assess, served_key
from lens_pipeline.derivatives.store_audit import ForeignStore, require_own_store
from lens_pipeline.engine.events import StepFailure, log_materializations
from lens_pipeline.errors import DerivativeError, ExtraMissing, Failure, InvalidRow, NotReady
from lens_pipeline.event_log.history import DerivativeStatus, ObservationKind, State
from lens_pipeline.event_log.tags import (
    BLAMELESS_TAG,
    ERROR_CLASS_TAG,
    FAILED_REVISION_TAG,
    FAILED_TAG,
    FORCE_TAG,
    ORIGIN_TAG,
    OUTCOME_TAG,
    PERMANENT_TAG,
    UNSTORED_TAG,
)
from lens_pipeline.reasons import explain
from lens_pipeline.storage.download import Fetcher

logger = logging.getLogger(__name__)

# Seconds between attempts to lock a partition.
_BUSY_POLL_SECONDS = 0.5
# Files done within these seconds are recorded together: a single event costs three transactions.
_LINGER_SECONDS = 0.5


def materialize_batch(
    context: dg.AssetExecutionContext, pipeline: Pipeline, *pairs: tuple[Derivative, Materializer]
) -> Iterator[dg.AssetCheckResult]:
    """Make the pairs in the order given. Raises dagster.Failure if any partition failed."""
    if not pairs:
        raise StepFailure("this check is a part of each run that makes files: materialize some")
    if not context.partition_keys:
        # Dagster itself would call such a run a success.
        raise StepFailure("the run's range of partitions ends before it begins: ask for them anew")
    batches = [_Batch(context, pipeline, *pair) for pair in pairs]
    url = pipeline.endpoints.dagster_url
    progress = RunProgress(context)
    keeps = any(isinstance(derivative, Original) for derivative, _ in pairs)
    with _batch_context(pipeline, progress, keeps=keeps) as shared:
        for number, batch in enumerate(batches):
            batch.told = {key: why for one in batches[:number] for key, why in one.failures.items()}
            with closing(_as_locked(url, batch.asset, context.partition_keys)) as groups:
                for ours in groups:
                    batch.work_through(ours, shared)
    for batch in batches:
        if batch.asset in checks.OF_RUNS:
            yield checks.of_run(batch.asset, batch.made + batch.up_to_date, batch.failures)
    _report(context, batches)
    progress.finish()


class _Batch:
    """One derivative of a run's partitions."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        pipeline: Pipeline,
        derivative: Derivative,
        materializer: Materializer,
    ) -> None:
        self._context = context
        self._pipeline = pipeline
        self._derivative = derivative
        self.asset = derivative.asset
        self._materializer = materializer
        self._served: dict[str, str | None] = {}  # paths of what was ready before, by key
        self.failures: dict[str, Failure] = {}
        # Of the run's other assets: the same failure is recorded once.
        self.told: dict[str, Failure] = {}
        self.made = self.up_to_date = 0

    def work_through(self, keys: Sequence[str], shared: BatchContext) -> None:
        """Rows are read under the partition locks: they may have changed before."""
        rows = self._usable_rows(keys)
        statuses = assess(self._pipeline, self._derivative, rows)
        self._served |= {s.id: s.path for s in statuses if s.state is State.READY}
        if isinstance(self._derivative, Original):
            shared.originals.look_up_extra(self._derivative.kind, [row.id for row in rows])
        wanted = [
            (row, status.wanted)
            for row, status in zip(rows, statuses, strict=True)
            if self._wants(status)
            or shared.originals.handed(row.id)
            or shared.originals.lacks_extra(row.id)
        ]
        self.up_to_date += len(rows) - len(wanted)
        for row, status in wanted:
            if status.waits_for:
                # No revision: the row as it is has not failed.
                self._record_failure(row.id, None, 0, Failure.of(NotReady(status.waits_for)))
        wanted = [(row, status) for row, status in wanted if not status.waits_for]
        if not wanted:
            return
        shared.originals.look_up(self._derivative.kind, [row for row, _ in wanted])
        if isinstance(self._materializer, RenditionMaterializer):
            # A backfill of the UI's may have many masters: few are on the disk at once.
            wanted.sort(
                key=lambda one: one[0].place if isinstance(one[0], ScaledVideo) else ("", 0)
            )
            self._materializer.begin(shared, [row for row, _ in wanted])
        threads = ThreadPoolExecutor(self._pipeline.settings.threads, "derivative")
        running: dict[Future[Metadata], tuple[Row, DerivativeStatus]] = {}
        try:
            running = {
                # Threads do not inherit the run's log context.
                threads.submit(copy_context().run, self._make, shared, row, status): (row, status)
                for row, status in wanted
            }
            while running:
                wait(running, return_when=FIRST_COMPLETED)
                done, _ = wait(running, timeout=_LINGER_SECONDS)
                self._record(shared, {future: running[future] for future in done})
                running = {f: entry for f, entry in running.items() if f not in done}
        except BaseException:
            shared.cancelled.set()
            self._materializer.interrupt()
            threads.shutdown(wait=True, cancel_futures=True)
            # What is stored by now must be known: else it stays when its row is deleted.
            if made := {f: entry for f, entry in running.items() if _is_made(f)}:
                self._record(shared, made)
            raise
        finally:
            # Threads must end before their files are deleted.
            threads.shutdown(wait=True, cancel_futures=True)

    def _make(self, shared: BatchContext, row: Row, status: DerivativeStatus) -> Metadata:
        asked_by = self._context.run.tags.get(TRACE_TAG)
        name = {_id_name(self._derivative.kind): row.id}
        with bound(**name), span(self.asset, name, linked=asked_by):
            add_wait(row.finished_at)
            metadata = self._materializer.make(shared, row, status.revision)
            add_stages(metadata)
            FILES.info("%s of %s is made", self.asset, row.id)
            return metadata

    def _wants(self, status: DerivativeStatus) -> bool:
        """Whether a person started the run or what is called for is not ready."""
        tags = self._context.run.tags
        is_forced = ORIGIN_TAG not in tags or FORCE_TAG in tags
        return is_forced or (status.wanted.state is not State.READY and not status.is_adopted)

    def _usable_rows(self, keys: Sequence[str]) -> list[Row]:
        kind = self._derivative.kind
        rows = self._pipeline.catalog.finished(kind, keys)
        usable: list[Row] = []
        for key in keys:
            row = rows.get(key)
            if row is None or isinstance(row, UnusableRow):
                reason = row.reason if row else f"no finished {kind} has the id {key}"
                self._record_failure(key, None, 0, Failure.of(InvalidRow(reason)))
            else:
                usable.append(row)
        return usable

    def _record(
        self,
        shared: BatchContext,
        done: Mapping[Future[Metadata], tuple[Row, DerivativeStatus]],
    ) -> None:
        ready = {f: entry for f, entry in done.items() if _is_made(f)}
        keys = [row.id for row, _ in ready.values()]
        earlier = self._pipeline.log.latest(self._derivative.asset, keys)
        made = [
            dg.AssetMaterialization(
                asset_key=self._derivative.asset,
                partition=row.id,
                metadata=self._without_age(_metadata_of(future), row, earlier.get(row.id)),
                tags=self._tags(row, status, _metadata_of(future)),
            )
            for future, (row, status) in ready.items()
        ]
        log_materializations(self._context, made)
        self.made += len(made)
        for materialization in made:
            self._drop_earlier(materialization, earlier)
        for future, (row, status) in done.items():
            error = future.exception()
            key = row.id
            if observation := shared.originals.observed(key):
                self._context.log_event(observation)
            if error is None or self.told.get(key) == Failure.of(error):
                continue
            if not isinstance(error, DerivativeError):
                self._context.log.error("%s: unforeseen error", key, exc_info=error)
                with bound(**{_id_name(self._derivative.kind): key}):
                    report(error)
            self._record_loss(key)
            self._record_failure(key, status.revision, status.attempts, Failure.of(error))

    def _without_age(
        self, metadata: Mapping[str, Any], row: Row, earlier: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """Leave out the latency of what is made anew of the same file: it would be the row's age.

        The row's time may be of another change, such as a favourite's click.
        """
        if row.id not in self._served and (
            earlier is None or row.finished_at is None or earlier["at"] < row.finished_at
        ):
            return metadata
        return {name: value for name, value in metadata.items() if name != "latency_seconds"}

    def _tags(
        self, row: Row, status: DerivativeStatus, metadata: Mapping[str, Any]
    ) -> Mapping[str, str]:
        tags = self._derivative.materialization_tags(row, status, self._pipeline.settings)
        if self._derivative.extension is not None and "path" not in metadata:
            tags[UNSTORED_TAG] = "true"
        return tags

    def _record_loss(self, key: str) -> None:
        """What was made before stays ready after a failure, unless its object is gone."""
        path = self._served.get(key)
        try:
            is_lost = path is not None and self._pipeline.store.stat(path) is None
            if is_lost:
                # A disk that is not mounted has lost nothing.
                require_own_store(self._pipeline)
        except (DerivativeError, ForeignStore):
            return
        if path is not None and is_lost:
            reason = "it is not in the store, and could not be made again"
            self._context.log_event(removal_of(self.asset, key, path, reason))

    def _record_failure(
        self, key: str, revision: str | None, earlier_attempts: int, failure: Failure
    ) -> None:
        with bound(**{_id_name(self._derivative.kind): key}):
            FILES.info("%s of %s: %s: %s", self.asset, key, failure.error_class, failure.error)
        self.failures[key] = failure
        tags = {
            OUTCOME_TAG: ObservationKind.FAILED.value,
            ERROR_CLASS_TAG: failure.error_class,
            PERMANENT_TAG: str(failure.permanent).lower(),
            BLAMELESS_TAG: str(failure.blameless).lower(),
        }
        self._context.log_event(
            dg.AssetObservation(
                asset_key=self._derivative.asset,
                partition=key,
                description=explain(failure.error_class).text,
                metadata={
                    "error": failure.error,
                    "error_class": failure.error_class,
                    "permanent": failure.permanent,
                    "attempt": earlier_attempts + 1,
                    "run_id": self._context.run.run_id,
                    "host": socket.gethostname(),
                },
                tags=tags | ({FAILED_REVISION_TAG: revision} if revision else {}),
            )
        )

    def _drop_earlier(
        self, made: dg.AssetMaterialization, earlier: Mapping[str, Mapping[str, Any]]
    ) -> None:
        if isinstance(self._derivative, Original):
            return
        before = earlier.get(str(made.partition), {})
        path, new = before.get("path"), made.metadata.get("path")
        if path is None:
            return
        store = self._pipeline.store
        kept = str(new.value) if new else None
        try:
            if path == kept:
                for size in before.get("sizes", {}).keys() - _sizes(made).keys():
                    store.delete(before["sizes"][size]["path"])
            else:
                delete_outputs(store, self._derivative, str(made.partition), path, but=kept)
        except DerivativeError as error:
            self._context.log.warning("cannot delete %s, which is replaced: %s", path, error)


def _sizes(made: dg.AssetMaterialization) -> Mapping[str, Any]:
    sizes = made.metadata.get("sizes")
    return sizes.value if sizes and isinstance(sizes.value, Mapping) else {}


def _is_made(future: Future[Metadata]) -> bool:
    if not future.done() or future.cancelled():
        return False
    return future.exception() is None or isinstance(future.exception(), ExtraMissing)


def _metadata_of(made: Future[Metadata]) -> Mapping[str, Any]:
    error = made.exception()
    return error.metadata if isinstance(error, ExtraMissing) else made.result()


def _id_name(kind: Kind) -> str:
    return "generation_id" if kind in (Kind.PHOTO, Kind.VIDEO) else f"{kind.value}_id"


def _report(context: dg.AssetExecutionContext, batches: Sequence[_Batch]) -> None:
    """Raises dagster.Failure if any file failed."""
    for batch in batches:
        context.log.info(
            "%s: %d made, %d up to date, %d failed",
            batch.asset, batch.made, batch.up_to_date, len(batch.failures),
        )  # fmt: skip
    failed = [(batch, key, why) for batch in batches for key, why in batch.failures.items()]
    if not failed:
        return
    made = sum(batch.made for batch in batches)
    # Of a partition, the picture and the original may have failed.
    count, total = len({key for _, key, _ in failed}), len(context.partition_keys)
    context.instance.add_run_tags(context.run.run_id, {FAILED_TAG: str(count)})
    others = ", the others are done" if count < total else ""
    first = " First:" if count > 1 else ""
    _, key, why = failed[0]
    raise StepFailure(
        f"{count} of {total} failed{others}.{first} {key}: {why.error}",
        {"failures": _table(failed), "made": made, "host": socket.gethostname()},
    )


def _table(failed: Sequence[tuple[_Batch, str, Failure]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "asset": batch.asset,
                    "partition": key,
                    "error_class": failure.error_class,
                    "permanent": failure.permanent,
                    "error": failure.error,
                    "advice": explain(failure.error_class).advice,
                }
            )
            for batch, key, failure in failed
        ]
    )


def _as_locked(url: str, asset: str, keys: Sequence[str]) -> Generator[list[str], None, None]:
    """Yield keys once locked; holds no lock in a wait, or two runs could block each other."""
    waiting = {partition_lock(asset, key): key for key in keys}
    locks = LockSession(url)
    try:
        while waiting:
            ours = locks.try_all(waiting)
            if ours:
                yield [key for lock, key in waiting.items() if lock in ours]
                waiting = {lock: key for lock, key in waiting.items() if lock not in ours}
                try:
                    locks.release(ours)
                except SQLAlchemyError as error:
                    # The locks ended with the session, after the work.
                    logger.warning("lost the session that held partition locks: %s", error)
                    locks.abandon()
                    locks = LockSession(url)
            if waiting:
                time.sleep(_BUSY_POLL_SECONDS)
    finally:
        locks.close()


@contextmanager
def _batch_context(
    pipeline: Pipeline, progress: RunProgress, *, keeps: bool
) -> Iterator[BatchContext]:
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
        transfers = Transfers(fetcher, pipeline.store, cancelled)
        with Originals(pipeline, transfers, keeps=keeps) as originals:
            yield BatchContext(
                transfers,
                originals,
                scratch,
                cancelled,
                progress.show,
                lambda master: served_key(pipeline, MASTER, master),
                lambda row: bool(pipeline.catalog.existing(Kind.SCALED, [row.id])),
                Provenance(settings),
            )
