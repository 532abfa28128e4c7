"""The age of the oldest row that waits for its derivative, the queues, the dead letters, and the
originals that are not saved.

Each derivative has a mark in the order (time of the row, id), below which nothing is left to do,
so that not every row is read. Rows behind the mark are told by the feed or found every hour.
"""

import datetime as dt
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Kind, Position
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.backfill import ADOPTION_AGE, ADOPTION_ROWS, is_unadopted
from lens_pipeline.derivatives.dead_letters import given_up
from lens_pipeline.derivatives.originals import UnsavedOriginals, count_unsaved
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import QUEUE_TAG, QUEUES, Derivative
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.counters import FigureLog, QueueLoad
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.monitoring.feed import Batch
from lens_pipeline.monitoring.threads import BackgroundThread

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 5.0
_SHARE = 0.2  # of the time, at most, that looks take of a slow database
# Between two counts of dead letters.
_LETTERS_SECONDS = 2.0  # after a change
_LETTERS_ANYHOW_SECONDS = 60.0
_TRUTH_SECONDS = 3600.0
# Of a look at a part of the rows, for the count of unsaved originals; after a whole count; after
# each look, as a multiple of its time.
_COUNT_SECONDS = 0.5
_COUNT_REST_SECONDS, _COUNT_RESTS = 300.0, 50
_PAGE = 500
_PAGES_AT_ONCE = 40
_OVERLAP = dt.timedelta(seconds=60)  # rows may commit this much later than younger ones
_MOST_REVISITED = 2000  # with more, the mark goes back to the beginning
_STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Backlog:
    oldest: Mapping[Kind, dt.datetime | None]
    """The time of the oldest finished row that is still to be made."""
    queues: Mapping[str, QueueLoad]
    letters: Sequence[DerivativeStatus]
    unsaved: Mapping[Kind, UnsavedOriginals] | None = None
    """None: they are still being counted."""

    @property
    def dead(self) -> dict[Kind, int]:
        counts = Counter(letter.kind for letter in self.letters)
        return {kind: counts[kind] for kind in self.oldest}

    @property
    def oldest_of_all(self) -> dt.datetime | None:
        return min((time for time in self.oldest.values() if time), default=None)


def age_seconds(moment: dt.datetime | None) -> float | None:
    """Seconds since then; 0 for a time in the future."""
    if moment is None:
        return None
    return round(max((dt.datetime.now(dt.UTC) - moment).total_seconds(), 0.0), 3)


def waits_since(status: DerivativeStatus) -> dt.datetime | None:
    """None: it cannot be made yet, or its next attempt is still to come."""
    if status.waits_for or not status.is_due(dt.datetime.now(dt.UTC)):
        return None
    return max((t for t in (status.finished_at, status.retry_at) if t), default=None)


class BacklogScanner:
    def __init__(self, pipeline: Pipeline, derivative: Derivative) -> None:
        self._pipeline = pipeline
        self._derivative = derivative
        self._lock = threading.Lock()
        self._mark: Position | None = None
        self._revisited: set[str] = set()  # ids below the mark
        self._again_at = 0.0
        self._last: dt.datetime | None = None
        self._old = 0  # below the mark; see `is_unadopted`
        self._has_library = True  # until a walk has shown that it has none

    def restart(self) -> None:
        self._again_at = 0.0

    def note(self, ids: Iterable[str]) -> None:
        """Look at these rows again."""
        with self._lock:
            self._revisited.update(ids)

    def oldest(self) -> dt.datetime | None:
        if time.monotonic() >= self._again_at:
            self._begin_anew()
            self._again_at = time.monotonic() + _TRUTH_SECONDS
        found = self._ahead(), self._behind()
        return min((moment for moment in found if moment), default=None)

    def _begin_anew(self) -> None:
        self._mark = None
        self._old = 0

    def _behind(self) -> dt.datetime | None:
        with self._lock:
            ids = sorted(self._revisited)
        if len(ids) > _MOST_REVISITED:
            with self._lock:
                self._revisited.difference_update(ids)
            self._begin_anew()
            return None
        open_rows: list[DerivativeStatus] = []
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            rows = self._pipeline.catalog.finished(self._derivative.kind, page)
            open_rows += (s for s in self._assess(rows.values()) if not s.is_settled)
        with self._lock:
            self._revisited -= set(ids) - {status.id for status in open_rows}
        now = dt.datetime.now(dt.UTC)
        times = [
            waits_since(status)
            for status in open_rows
            if not (self._has_library and is_unadopted(status, now))
        ]
        return min((moment for moment in times if moment), default=None)

    def _ahead(self) -> dt.datetime | None:
        """Move the mark up to the first row of a day that is to be made; return the row's time.

        Older ones are left to `_behind`, up to as many as are no library still to be adopted.
        It stops after `_PAGES_AT_ONCE` and returns the last result.
        """
        now = self._pipeline.catalog.now()
        settled_until = now - _OVERLAP
        if self._mark is not None and self._mark.finished_at > settled_until:
            self._begin_anew()  # the database's clock was set back
        place = self._mark
        for _ in range(_PAGES_AT_ONCE):
            page = self._pipeline.catalog.after(self._derivative.kind, place, _PAGE)
            statuses = {status.id: status for status in self._assess(row for _, row in page)}
            for position, row in page:
                # Rows without a time come last, and have no age.
                if position is None:
                    return self._end(None)
                status = statuses.get(row.id)
                if status is not None and not status.is_settled:
                    since, is_old = waits_since(status), is_unadopted(status, now)
                    if since and not is_old and position.finished_at >= now - ADOPTION_AGE:
                        return self._end(since)
                    self._old += is_old
                    if not is_old or self._old <= ADOPTION_ROWS:
                        self.note([row.id])
                place = position
                if position.finished_at <= settled_until:
                    self._mark = position
            if len(page) < _PAGE:
                return self._end(None)
        return self._last

    def _end(self, found: dt.datetime | None) -> dt.datetime | None:
        self._has_library = self._old > ADOPTION_ROWS
        self._last = found
        return found

    def _assess(self, rows: Iterable) -> list[DerivativeStatus]:
        return assess(self._pipeline, self._derivative, usable(list(rows)))


class OriginalCounter:
    """Counts unsaved originals by and by: of a million rows that takes minutes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._pages = count_unsaved(pipeline)
        self._latest: Mapping[Kind, UnsavedOriginals] | None = None
        self._next_at = 0.0

    def look(self) -> Mapping[Kind, UnsavedOriginals] | None:
        """What the last count found. Raises CatalogError, SQLAlchemyError: it begins anew."""
        started = time.monotonic()
        if started < self._next_at:
            return self._latest
        pages, self._pages = self._pages, count_unsaved(self._pipeline)
        found, is_whole = next(pages)
        while not is_whole and time.monotonic() - started < _COUNT_SECONDS:
            found, is_whole = next(pages)
        if is_whole:
            self._latest = found
        else:
            self._pages = pages
        now = time.monotonic()
        rest = _COUNT_REST_SECONDS if is_whole else 0.0
        self._next_at = now + max(rest, _COUNT_RESTS * (now - started))
        return self._latest


class BacklogMonitor(BackgroundThread):
    """Looks at the backlog every few seconds; metrics and alerts are read less often."""

    def __init__(self, pipeline: Pipeline, log: FigureLog) -> None:
        super().__init__("lens-backlog")
        self._pipeline = pipeline
        self._log = log
        self._scanners = {
            # What may wait for long is no backlog.
            derivative.asset: BacklogScanner(pipeline, derivative)
            for derivative in registry.DERIVATIVES
            if not derivative.priority
        }
        self._originals = OriginalCounter(pipeline)
        self._known: tuple[float, Backlog] | None = None
        self._letters: Sequence[DerivativeStatus] | None = None
        self._letters_at = 0.0
        self._is_changed = threading.Event()

    @property
    def latest(self) -> Backlog | None:
        """The backlog as of the last look, at most a minute ago; else None."""
        known = self._known
        return known[1] if known and time.monotonic() - known[0] <= _STALE_SECONDS else None

    def tell(self, batch: Batch) -> None:
        """A listener of the feed."""
        if batch.is_reset:
            for scanner in self._scanners.values():
                scanner.restart()
        if batch.statuses:
            self._is_changed.set()
        for status in batch.statuses:
            if not status.is_settled and status.asset in self._scanners:
                self._scanners[status.asset].note([status.id])

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self._known = (started, self._look())
            except (SQLAlchemyError, CatalogError) as error:
                logger.info("the backlog is not known: %s", str(error).splitlines()[0])
            except Exception:
                logger.exception("the backlog is not known")
            took = time.monotonic() - started
            self._stop.wait(max(_LOOK_SECONDS, took / _SHARE - took))

    def _look(self) -> Backlog:
        now = time.monotonic()
        rest = _LETTERS_SECONDS if self._is_changed.is_set() else _LETTERS_ANYHOW_SECONDS
        letters = self._letters
        if letters is None or now - self._letters_at >= rest:
            self._is_changed.clear()
            self._letters = letters = given_up(self._pipeline)
            self._letters_at = now
        oldest: dict[Kind, dt.datetime | None] = {}
        for asset, scanner in self._scanners.items():
            derivative = registry.by_asset(asset)
            lacks = self._pipeline.catalog.lack_of(derivative.kind)
            found = None if lacks else scanner.oldest()
            known = oldest.get(derivative.kind)
            oldest[derivative.kind] = min((t for t in (found, known) if t), default=None)
        loads = self._log.queues(QUEUE_TAG)
        queues = {queue: loads.get(queue, QueueLoad(0, None)) for queue in QUEUES}
        return Backlog(oldest, queues, letters, self._originals.look())
