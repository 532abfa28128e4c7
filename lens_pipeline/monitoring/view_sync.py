"""Keeps the view `lens_generations` true.

The process that has the lock compares everything at first and every hour; in between it writes what
the feed tells, and each minute the mark without which the view says NULL for `none`. Where no
process has the lock, `lens once` and `lens backfill` write what they made.
"""

import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.core.locks import LockSession, projection_lock
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import of_generations
from lens_pipeline.derivatives.status import describe, status_pages
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.monitoring.feed import Batch
from lens_pipeline.monitoring.threads import BackgroundThread

logger = logging.getLogger(__name__)
_TRY_SECONDS = 3.0  # without the lock
_RIGHTS_SECONDS = 60.0  # without the right to write
_COMPARE_SECONDS = 3600.0
_MARK_SECONDS = 60.0
_KEPT_SECONDS = 300.0  # that a mark holds
_MOST_WAITING = 1000  # batches; with more, everything is compared anew
# Rests, as multiples of the time of a page: without them requests took three times as long.
_RESTS = 3


class ViewWriter(BackgroundThread):
    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__("lens-projection")
        self._pipeline = pipeline
        self._told: queue.Queue[list[DerivativeStatus]] = queue.Queue(_MOST_WAITING)
        self._compare = threading.Event()
        self._compared_at = 0.0
        self._marked_at = 0.0
        self._age_note: str | None = None
        self._said: str | None = None

    def tell(self, batch: Batch) -> None:
        shown = {derivative.asset for derivative in of_generations()}
        statuses = [status for status in batch.statuses if status.asset in shown]
        if batch.is_reset:
            self._compare.set()
        if statuses:
            try:
                self._told.put_nowait(statuses)
            except queue.Full:
                self._compare.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            seconds = _TRY_SECONDS
            try:
                lack = self._pipeline.catalog.lack_of_view()
                if lack is None:
                    self._write_alone()
                else:
                    self._say(lack.message)
                    seconds = _RIGHTS_SECONDS
            except (SQLAlchemyError, CatalogError) as error:
                self._say(f"lens_generations waits: {str(error).splitlines()[0]}")
            except Exception:
                logger.exception("lens_generations is compared anew after a fault")
            self._stop.wait(seconds)

    def _say(self, line: str) -> None:
        if line != self._said:
            logger.warning("%s", line)
        self._said = line

    def _write_alone(self) -> None:
        """Write as long as this process has the lock."""
        session = LockSession(self._pipeline.endpoints.dagster_url)
        try:
            if not session.try_all([projection_lock()]):
                self._forget()
                return
            self._said = None
            self._compare.set()
            self._compared_at = 0.0
            self._look_at_version()
            while not self._stop.is_set():
                session.is_held(projection_lock())  # raises if the session is lost
                is_due = time.monotonic() - self._compared_at >= _COMPARE_SECONDS
                if self._compare.is_set() or is_due:
                    self._compare_all()
                self._write_told(1.0)
        except BaseException:
            session.abandon()
            raise
        session.close()

    def _forget(self) -> None:
        """Drop what another process writes or the comparison finds."""
        while not self._told.empty():
            self._told.get_nowait()

    def _compare_all(self) -> None:
        """Write every finished generation, and between pages what is told."""
        self._compare.clear()
        self._forget()
        for seconds in _compare(self._pipeline):
            self._write_told_for(_RESTS * seconds)
            if self._stop.is_set():
                self._compare.set()
                return
        self._pipeline.catalog.mark_view(_KEPT_SECONDS, compared=True)
        self._compared_at = self._marked_at = time.monotonic()

    def _mark(self) -> None:
        """Each minute, after the first comparison."""
        if not self._compared_at or time.monotonic() - self._marked_at < _MARK_SECONDS:
            return
        self._pipeline.catalog.mark_view(_KEPT_SECONDS)
        self._marked_at = time.monotonic()
        self._look_at_version()

    def _look_at_version(self) -> None:
        """Compare everything after a change: a new column is empty."""
        note = self._pipeline.catalog.view_age_note()
        if note != self._age_note:
            self._compare.set()
        if note:
            self._say(note)
        self._age_note = note

    def _write_told_for(self, seconds: float) -> None:
        """Write what the feed tells for `seconds`."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._write_told(min(left, 1.0))

    def _write_told(self, seconds: float) -> None:
        """Write what the feed tells next. Waits at most `seconds`."""
        self._mark()
        try:
            statuses = self._told.get(timeout=seconds)
            while not self._told.empty():
                statuses = statuses + self._told.get_nowait()
        except queue.Empty:
            return
        latest = {(status.asset, status.id): status for status in statuses}.values()
        try:
            for asset in {status.asset for status in latest}:
                _write(self._pipeline, asset, [s for s in latest if s.asset == asset])
        except BaseException:
            self._compare.set()  # which finds what was taken from the queue
            raise


def update_view(pipeline: Pipeline, statuses: Sequence[DerivativeStatus], *, alone: bool) -> None:
    """Write `statuses`, and every hour all, unless another process keeps the view.

    `alone`: until a later process says otherwise, no other makes files. Raises CatalogError,
    sqlalchemy.exc.SQLAlchemyError.
    """
    if pipeline.catalog.lack_of_view() is not None:
        return
    with closing(LockSession(pipeline.endpoints.dagster_url)) as session:
        if not session.try_all([projection_lock()]):
            return
        is_due = not pipeline.catalog.is_view_marked(_COMPARE_SECONDS)
        if is_due:
            for _ in _compare(pipeline):
                pass
        for asset in {derivative.asset for derivative in of_generations()}:
            _write(pipeline, asset, [s for s in statuses if s.asset == asset])
        pipeline.catalog.mark_view(None if alone else _KEPT_SECONDS, compared=is_due)


def _compare(pipeline: Pipeline) -> Iterator[float]:
    """Write every finished generation; yields the seconds of each page."""
    for derivative in of_generations():
        started = time.monotonic()
        for page in status_pages(pipeline, derivative, []):
            _write(pipeline, derivative.asset, describe(pipeline, page, ready=False))
            yield time.monotonic() - started
            started = time.monotonic()
    pipeline.catalog.drop_orphans({d.asset: d.kind for d in of_generations()})


def _write(pipeline: Pipeline, asset: str, statuses: Sequence[DerivativeStatus]) -> None:
    rows = {s.id: _columns(s) for s in statuses if s.state is not State.NONE}
    gone = [s.id for s in statuses if s.state is State.NONE]
    pipeline.catalog.write_view(asset, rows, gone)


def _columns(status: DerivativeStatus) -> dict[str, object]:
    remake = status.due_remake
    # The backfill looks again at what has none.
    fingerprint = None if remake and not remake.is_settled else status.fingerprint
    return {
        "status": status.state.value,
        "path": status.path,
        "error": status.error,
        "fingerprint": fingerprint,
        "changed_at": status.at or dt.datetime.now(dt.UTC),
    }
