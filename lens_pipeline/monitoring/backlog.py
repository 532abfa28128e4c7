"""How old the oldest finished row is that still waits for its derivative, and what lies in queues.

Looking at every row would cost more with every photo. So each derivative has a mark, in the order
(time of the row, id), below which nothing is left to do; each look goes on from there. What falls
behind the mark, such as a retry of something old, is told by the feed or found every hour.
"""

import datetime as dt
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Kind, Position
from lens_pipeline.core.threads import BackgroundThread
from lens_pipeline.derivatives.dead_letters import GivenUp, given_up
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import DERIVATIVES, QUEUE_TAG, QUEUES, Derivative
from lens_pipeline.derivatives.status import Assessed, assess, usable
from lens_pipeline.event_log.counters import FigureLog, QueueLoad
from lens_pipeline.event_log.history import State
from lens_pipeline.monitoring.feed import Batch

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# Of a slow database at most this share of the time is taken.
_SHARE = 0.2
# Dead letters are counted when something has changed, and now and then all the same.
_LETTERS_SECONDS = 2.0
_LETTERS_ANYHOW_SECONDS = 60.0
_TRUTH_SECONDS = 3600.0
_PAGE = 500
_PAGES_AT_ONCE = 40
# Rows may commit later than rows with a younger time; looked at again for so long.
_OVERLAP = dt.timedelta(seconds=60)
# Rows looked at again one by one; with more of them the mark goes back to the beginning.
_MOST_REVISITED = 2000
_STALE_SECONDS = 60.0
_SETTLED = frozenset({State.READY, State.DEAD})


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits, as of one look at it."""

    oldest: Mapping[Kind, dt.datetime | None]
    """The time of the oldest finished row that is neither ready nor dead and could be made."""
    queues: Mapping[str, QueueLoad]
    letters: tuple[GivenUp, ...]

    @property
    def dead(self) -> dict[Kind, int]:
        """How many derivatives were given up on, by what their rows are."""
        found = dict.fromkeys(self.oldest, 0)
        for letter in self.letters:
            found[letter.kind] += 1
        return found

    @property
    def oldest_of_all(self) -> dt.datetime | None:
        return min((time for time in self.oldest.values() if time), default=None)


def age_seconds(moment: dt.datetime | None) -> float | None:
    """Seconds since then; a row stamped in the future is as old as one of now."""
    if moment is None:
        return None
    return round(max((dt.datetime.now(dt.UTC) - moment).total_seconds(), 0.0), 3)


class Walk:
    """The walk over the rows of one derivative."""

    def __init__(self, pipeline: Pipeline, derivative: Derivative) -> None:
        self._pipeline = pipeline
        self._derivative = derivative
        self._lock = threading.Lock()
        self._mark: Position | None = None
        # Below the mark: what waits for something, and what was told of.
        self._revisited: set[str] = set()
        self._again_at = 0.0
        self._last: dt.datetime | None = None

    def restart(self) -> None:
        """Look at every row again."""
        self._again_at = 0.0

    def note(self, ids: Iterable[str]) -> None:
        """Look at these rows again."""
        with self._lock:
            self._revisited.update(ids)

    def oldest(self) -> dt.datetime | None:
        """The time of the oldest row that is to be made; goes on from the mark."""
        if time.monotonic() >= self._again_at:
            self._mark = None
            self._again_at = time.monotonic() + _TRUTH_SECONDS
        behind = self._behind()
        ahead = self._ahead()
        return min((moment for moment in (behind, ahead) if moment), default=None)

    def _behind(self) -> dt.datetime | None:
        with self._lock:
            ids = sorted(self._revisited)
        if len(ids) > _MOST_REVISITED:
            with self._lock:
                self._revisited.difference_update(ids)
            self._mark = None
            return None
        open_rows: list[Assessed] = []
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            rows = self._pipeline.catalog.finished(self._derivative.kind, page)
            open_rows += filter(_is_open, self._assess(rows.values()))
        with self._lock:
            self._revisited -= set(ids) - {assessed.row.id for assessed in open_rows}
        return _first(open_rows)

    def _ahead(self) -> dt.datetime | None:
        """Move the mark up to the first row that is to be made, and return that row's time.

        On a long way it stops at times, and what was found before is still said.
        """
        settled_until = self._pipeline.catalog.now() - _OVERLAP
        if self._mark is not None and self._mark.finished_at > settled_until:
            # The database's clock was set back: rows that finish now are behind the mark.
            self._mark = None
        place = self._mark
        for _ in range(_PAGES_AT_ONCE):
            page = self._pipeline.catalog.after(self._derivative.kind, place, _PAGE)
            assessed = {a.row.id: a for a in self._assess(row for _, row in page)}
            for position, row in page:
                # Rows without any time come last, and have no age.
                if position is None:
                    self._last = None
                    return None
                here = assessed.get(row.id)
                if here is not None and _is_open(here):
                    if not here.waits:
                        self._last = position.finished_at
                        return self._last
                    self.note([row.id])
                place = position
                if position.finished_at <= settled_until:
                    self._mark = position
            if len(page) < _PAGE:
                self._last = None
                return None
        return self._last

    def _assess(self, rows: Iterable) -> list[Assessed]:
        return assess(self._pipeline, self._derivative, usable(list(rows)))


def _is_open(assessed: Assessed) -> bool:
    return assessed.standing.state not in _SETTLED


def _first(rows: Iterable[Assessed]) -> dt.datetime | None:
    times = [a.row.finished_at for a in rows if not a.waits and a.row.finished_at]
    return min(times, default=None)


class Watch(BackgroundThread):
    """Keeps the backlog of a pipeline known."""

    def __init__(self, pipeline: Pipeline, log: FigureLog) -> None:
        super().__init__("lens-backlog")
        self._pipeline = pipeline
        self._log = log
        self._walks = {d.asset: Walk(pipeline, d) for d in DERIVATIVES}
        self._known: tuple[float, Backlog] | None = None
        self._letters: tuple[GivenUp, ...] | None = None
        self._letters_at = 0.0
        self._is_changed = threading.Event()

    @property
    def backlog(self) -> Backlog | None:
        """The last look; None if there was none within a minute."""
        known = self._known
        if known is None or time.monotonic() - known[0] > _STALE_SECONDS:
            return None
        return known[1]

    def tell(self, batch: Batch) -> None:
        """To be called by the feed."""
        if batch.is_reset:
            for walk in self._walks.values():
                walk.restart()
        if batch.statuses:
            self._is_changed.set()
        for status in batch.statuses:
            if not status.is_settled:
                self._walks[status.asset].note([status.id])

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
        for derivative in DERIVATIVES:
            found = self._walks[derivative.asset].oldest()
            known = oldest.get(derivative.kind)
            oldest[derivative.kind] = min((t for t in (found, known) if t), default=None)
        queues = dict.fromkeys(QUEUES, QueueLoad(0, None)) | self._log.queues(QUEUE_TAG)
        return Backlog(oldest, queues, letters)
