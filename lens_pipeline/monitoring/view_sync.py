"""Keeps the view `lens_generations` true.

Of several processes one writes, by a lock that ends with its session. When it begins it compares
everything, and again every hour; in between it writes what the feed tells.
"""

import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Iterator

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.status_view import Projected
from lens_pipeline.core.locks import LockSession, projection_lock
from lens_pipeline.core.threads import BackgroundThread
from lens_pipeline.derivatives.dead_letters import explain_all
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import POSTER, PREVIEW, Derivative
from lens_pipeline.derivatives.status import Assessed, assessed_pages
from lens_pipeline.event_log.history import State
from lens_pipeline.monitoring.feed import Batch, Status

logger = logging.getLogger(__name__)

_DERIVATIVES = (PREVIEW, POSTER)
_ASSETS = {derivative.asset for derivative in _DERIVATIVES}
# How often a process that does not write tries to, and whether the role may be asked again.
_TRY_SECONDS = 3.0
_RIGHTS_SECONDS = 60.0
_TRUTH_SECONDS = 3600.0
# Batches that wait to be written; beyond that everything is compared anew.
_MOST_WAITING = 1000
# The comparison of everything rests so many times as long as each page took: it is in no hurry,
# and shares its process with requests. Measured without a rest: pages took three times as long.
_RESTS = 3


class Projector(BackgroundThread):
    """Writes the projection, on a thread of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__("lens-projection")
        self._pipeline = pipeline
        self._told: queue.Queue[list[Status]] = queue.Queue(_MOST_WAITING)
        self._compare = threading.Event()
        self._compared_at = 0.0
        self._said: str | None = None

    def tell(self, batch: Batch) -> None:
        """To be called by the feed."""
        statuses = [status for status in batch.statuses if status.asset in _ASSETS]
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
        """Write for as long as this process has the lock; return at once if another has it."""
        session = LockSession(self._pipeline.endpoints.dagster_url)
        try:
            if not session.try_all([projection_lock()]):
                self._forget()
                return
            self._said = None
            self._compare.set()
            while not self._stop.is_set():
                # Also shows whether the session, and with it the lock, is still there.
                session.is_held(projection_lock())
                if self._compare.is_set() or self._is_due():
                    self._compare_all()
                self._write_told(1.0)
        except BaseException:
            session.abandon()
            raise
        session.close()

    def _is_due(self) -> bool:
        return time.monotonic() - self._compared_at >= _TRUTH_SECONDS

    def _forget(self) -> None:
        """Another process writes what was told meanwhile; the comparison finds the rest."""
        while not self._told.empty():
            self._told.get_nowait()

    def _compare_all(self) -> None:
        """Compare every finished generation; what is told meanwhile is written after its page."""
        self._compare.clear()
        self._forget()
        for derivative in _DERIVATIVES:
            started = time.monotonic()
            for page in assessed_pages(self._pipeline, derivative, []):
                self._write_page(derivative, page)
                self._write_told_for(_RESTS * (time.monotonic() - started))
                if self._stop.is_set():
                    self._compare.set()
                    return
                started = time.monotonic()
        self._pipeline.catalog.drop_orphans()
        self._compared_at = time.monotonic()

    def _write_page(self, derivative: Derivative, page: list[Assessed]) -> None:
        log = self._pipeline.log
        events = [a.standing.event_id for a in page if a.standing.event_id]
        times = log.times(events) if events else {}
        errors = explain_all(self._pipeline, [a.standing for a in page])
        now = dt.datetime.now(dt.UTC)
        rows = [
            Projected(
                assessed.row.id,
                assessed.standing.state.value,
                derivative.object_key(assessed.row, assessed.revision)
                if assessed.standing.state is State.READY
                else None,
                error,
                times.get(assessed.standing.event_id or 0, now),
            )
            for assessed, error in zip(page, errors, strict=True)
            if assessed.standing.state is not State.NONE
        ]
        gone = [a.row.id for a in page if a.standing.state is State.NONE]
        self._pipeline.catalog.project(derivative.asset, rows, gone)

    def _write_told_for(self, seconds: float) -> None:
        """Write what the feed tells for so many seconds, unless the process ends meanwhile."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._write_told(min(left, 1.0))

    def _write_told(self, seconds: float) -> None:
        """Write what the feed tells next, within so many seconds."""
        try:
            statuses = self._told.get(timeout=seconds)
            while not self._told.empty():
                statuses = statuses + self._told.get_nowait()
        except queue.Empty:
            return
        try:
            for asset, latest in _latest(statuses):
                now = dt.datetime.now(dt.UTC)
                rows = [
                    Projected(s.id, s.status.value, s.path, s.error, s.at or now)
                    for s in latest
                    if s.status is not State.NONE
                ]
                gone = [s.id for s in latest if s.status is State.NONE]
                self._pipeline.catalog.project(asset, rows, gone)
        except BaseException:
            # What was taken from the queue is found by comparing.
            self._compare.set()
            raise


def _latest(statuses: list[Status]) -> Iterator[tuple[str, list[Status]]]:
    """The last word about each partition, by asset."""
    last = {(status.asset, status.id): status for status in statuses}
    for asset in _ASSETS:
        yield asset, [status for (of, _), status in last.items() if of == asset]
