"""Keeps the views `lens_generations` and `lens_master_videos` true.

The process that has the lock compares everything at first and every hour; in between it writes what
the feed tells, and each minute the mark without which the view says NULL for `none`. Where no
process has the lock, `lens once` and `lens backfill` write what they made.
"""

import datetime as dt
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Generation, Kind, Row, UnusableRow
from lens_pipeline.core.locks import LockSession, projection_lock
from lens_pipeline.derivatives.originals import stored_originals
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import (
    MASTER,
    ORIGINALS,
    Derivative,
    Original,
    of_generations,
)
from lens_pipeline.derivatives.status import describe, status_pages, usable
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
_MOST_ORIGINALS = 500  # of each kind, that are written at once
# Rests, as multiples of the time of a page: without them requests took three times as long.
_RESTS = 3


class _Told(NamedTuple):
    statuses: list[DerivativeStatus]
    percents: dict[str, int | None]
    """Of masters under way."""


class ViewWriter(BackgroundThread):
    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__("lens-projection")
        self._pipeline = pipeline
        self._told: queue.Queue[_Told] = queue.Queue(_MOST_WAITING)
        # The feed tells of no originals.
        self._originals: dict[str, int] = {}  # by asset: the last event that is written
        self._compare = threading.Event()
        self._compared_at = 0.0
        self._marked_at = 0.0
        self._age_note: str | None = None
        self._said: str | None = None

    def tell(self, batch: Batch) -> None:
        shown = {derivative.asset for derivative in _shown()}
        statuses = [status for status in batch.statuses if status.asset in shown]
        percents = {
            status.id: status.progress.percent
            for status in batch.progress
            if status.asset == MASTER.asset and status.progress
        }
        if batch.is_reset:
            self._compare.set()
        if statuses or percents:
            try:
                self._told.put_nowait(_Told(statuses, percents))
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
        log = self._pipeline.log
        self._originals = {one.asset: log.last_event(one.asset) for one in ORIGINALS.values()}
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
        self._write_originals()
        try:
            told = [self._told.get(timeout=seconds)]
            while not self._told.empty():
                told.append(self._told.get_nowait())
        except queue.Empty:
            return
        latest = {(s.asset, s.id): s for one in told for s in one.statuses}.values()
        percents = {key: percent for one in told for key, percent in one.percents.items()}
        try:
            for asset in {status.asset for status in latest}:
                _write(self._pipeline, asset, [s for s in latest if s.asset == asset])
            for kind in ORIGINALS:
                gone = [s.id for s in latest if s.kind == kind and s.state is State.NONE]
                _write_originals_of(self._pipeline, kind, gone)
            if percents:
                self._pipeline.catalog.write_view_progress(percents)
        except BaseException:
            self._compare.set()  # which finds what was taken from the queue
            raise

    def _write_originals(self) -> None:
        """Write those that were recorded since."""
        events = self._pipeline.log.materialized_after(self._originals, _MOST_ORIGINALS)
        for kind, original in ORIGINALS.items():
            name = original.asset
            found = {event: key for event, (asset, key) in events.items() if asset == name}
            if found:
                _write_originals_of(self._pipeline, kind, found.values())
                self._originals[name] = max(found)


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
        for asset in {derivative.asset for derivative in _shown()}:
            _write(pipeline, asset, [s for s in statuses if s.asset == asset])
        for kind in ORIGINALS:
            _write_originals_of(pipeline, kind, [s.id for s in statuses if s.kind == kind])
        pipeline.catalog.mark_view(None if alone else _KEPT_SECONDS, compared=is_due)


def _shown() -> tuple[Derivative, ...]:
    return (*of_generations(), MASTER)


def _compare(pipeline: Pipeline) -> Iterator[float]:
    """Write every finished row and its original; yields the seconds of each page."""
    started = time.monotonic()
    shown = (one for one in _shown() if not pipeline.catalog.lack_of(one.kind))
    for derivative in shown:
        for page in status_pages(pipeline, derivative, []):
            _write(pipeline, derivative.asset, describe(pipeline, page, ready=False))
            yield time.monotonic() - started
            started = time.monotonic()
    for kind, original in ORIGINALS.items():
        for rows in pipeline.catalog.all_finished(kind):
            _write_originals(pipeline, original, _changed(pipeline, original, _generations(rows)))
            yield time.monotonic() - started
            started = time.monotonic()
    pipeline.catalog.drop_orphans()


def _generations(rows: Iterable[Row | UnusableRow]) -> list[Generation]:
    return [row for row in usable(list(rows)) if isinstance(row, Generation)]


def _changed(
    pipeline: Pipeline, original: Original, rows: Sequence[Generation]
) -> list[Generation]:
    """Those of which something else is shown than the original that the log has.

    Metadata take long to read: only those of what is new are.
    """
    shown = pipeline.catalog.view_fingerprints(original.asset, [row.id for row in rows])
    wanted = {row.id: original.revision_of(row.asset_url) for row in rows}
    others = [row for row in rows if shown.get(row.id) != wanted[row.id]]
    made = pipeline.log.revisions(original.asset, [row.id for row in others]) if others else {}
    return [row for row in others if row.id in shown or made.get(row.id) == wanted[row.id]]


def _write_originals_of(pipeline: Pipeline, kind: Kind, ids: Iterable[str]) -> None:
    wanted = set(ids)
    if not wanted:
        return
    rows = {row.id: row for row in _generations(pipeline.catalog.finished(kind, wanted).values())}
    _write_originals(pipeline, ORIGINALS[kind], list(rows.values()), wanted - rows.keys())


def _write_originals(
    pipeline: Pipeline, original: Original, rows: Sequence[Generation], gone: Iterable[str] = ()
) -> None:
    """Write where those of `rows` lie, if the store has them."""
    stored = stored_originals(pipeline, original.kind, {row.id: row.asset_url for row in rows})
    values = {
        row.id: {
            "status": State.READY.value,
            "path": stored[row.id].path,
            "error": None,
            "fingerprint": original.revision_of(row.asset_url),
            "changed_at": stored[row.id].metadata["at"],
        }
        for row in rows
        if row.id in stored
    }
    absent = [*gone, *(row.id for row in rows if row.id not in stored)]
    if values or absent:
        pipeline.catalog.write_view(original.asset, values, absent)


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
