"""Keeps the view `lens_generations` true.

The process that has the lock compares everything at first and every hour; in between it writes what
the feed tells.
"""

import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Sequence

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
                if self._pipeline.catalog.may_write_view():
                    self._write_alone()
                else:
                    self._say(
                        "lens_generations is not kept true: run `lens migrate` as a role that may"
                        " create it; `lens doctor` tells more"
                    )
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
        for derivative in of_generations():
            started = time.monotonic()
            for page in status_pages(self._pipeline, derivative, []):
                self._write(derivative.asset, describe(self._pipeline, page, ready=False))
                self._write_told_for(_RESTS * (time.monotonic() - started))
                if self._stop.is_set():
                    self._compare.set()
                    return
                started = time.monotonic()
        self._pipeline.catalog.drop_orphans({d.asset: d.kind for d in of_generations()})
        self._compared_at = time.monotonic()

    def _write_told_for(self, seconds: float) -> None:
        """Write what the feed tells for `seconds`."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._write_told(min(left, 1.0))

    def _write_told(self, seconds: float) -> None:
        """Write what the feed tells next. Waits at most `seconds`."""
        try:
            statuses = self._told.get(timeout=seconds)
            while not self._told.empty():
                statuses = statuses + self._told.get_nowait()
        except queue.Empty:
            return
        latest = {(status.asset, status.id): status for status in statuses}.values()
        try:
            for asset in {status.asset for status in latest}:
                self._write(asset, [status for status in latest if status.asset == asset])
        except BaseException:
            self._compare.set()  # which finds what was taken from the queue
            raise

    def _write(self, asset: str, statuses: Sequence[DerivativeStatus]) -> None:
        rows = {s.id: _columns(s) for s in statuses if s.state is not State.NONE}
        gone = [s.id for s in statuses if s.state is State.NONE]
        self._pipeline.catalog.write_view(asset, rows, gone)


def _columns(status: DerivativeStatus) -> dict[str, object]:
    return {
        "status": status.state.value,
        "path": status.path,
        "error": status.error,
        "changed_at": status.at or dt.datetime.now(dt.UTC),
    }
