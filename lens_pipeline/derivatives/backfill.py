"""Which finished rows still need work."""

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import inf

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Position, UnusableRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.round_robin import round_robin
from lens_pipeline.derivatives.status import status_pages
from lens_pipeline.event_log.history import DerivativeStatus, State

# More old rows without a record are a library still to be adopted.
ADOPTION_ROWS = 500
ADOPTION_AGE = dt.timedelta(days=1)
# Providers keep no task for longer: a row that changes later has not finished then. Some sites
# change its time with each favourite.
_TASK_AGE = dt.timedelta(days=14)

# Most rows that are kept in memory between two looks, and that one look at changes reads.
_MOST_OPEN = 10_000
# Looks at all rows are put off for this many times their seconds, by and without the projection.
_REST_OF_JOIN, _REST_OF_ALL = 300, 30
_LONGEST_REST_SECONDS = 1800.0
# Looks of a daily cron come some seconds earlier or later.
_DAY_SECONDS = 23 * 3600.0
# Rows may commit this much later than younger ones.
_OVERLAP = dt.timedelta(minutes=5)


@dataclass(slots=True)
class Survey:
    needed: list[DerivativeStatus] = field(default_factory=list)
    outdated: list[DerivativeStatus] = field(default_factory=list)
    """What is to be made anew, while an earlier one is served."""
    invalid: list[UnusableRow] = field(default_factory=list)
    unrecorded_old: int = 0
    waiting: int = 0
    by_state: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    open: set[str] = field(default_factory=set)
    """Rows whose status may change without a change of the row or an event; 10,001: too many."""

    def add(self, status: DerivativeStatus, due_at: dt.datetime | None) -> None:
        """`due_at`: the time until which a failed one must be due; None: any is."""
        wanted = status.due_remake or status
        if not wanted.is_settled and len(self.open) <= _MOST_OPEN:
            self.open.add(status.id)
        if status.waits:
            self.waiting += 1
        elif wanted.is_missing and (due_at is None or wanted.is_due(due_at)):
            (self.needed if wanted is status else self.outdated).append(wanted)

    def forget_last_turns(self, most: float) -> None:
        """Keep about `most` of each list: the others come when these are made."""
        if len(self.needed) > 2 * most:
            self.needed = _first_turns(self.needed, int(most))
        if len(self.outdated) > 2 * most:
            self.outdated = _first_turns(self.outdated, int(most))


def _first_turns(statuses: Sequence[DerivativeStatus], most: int) -> list[DerivativeStatus]:
    return round_robin(statuses, lambda status: status.owner)[:most]


def survey(
    pipeline: Pipeline,
    derivative: Derivative,
    *,
    bulk: bool,
    limit: int | None,
    only_due: bool = False,
    ids: Sequence[str] | None = None,
    unrecorded_old: int = 0,
    now: dt.datetime | None = None,
) -> Survey:
    """Find up to `limit` rows whose derivative is missing, has failed or is outdated, by turns of
    owners.

    Of all rows, or of `ids` where `unrecorded_old` others are known. Unless `bulk`, more than 500
    rows over a day old without a record are left to be adopted; of what follows another derivative,
    all. With `only_due`, failed ones are
    left alone until their `retry_at`.
    """
    found = Survey(unrecorded_old=unrecorded_old)
    old: list[DerivativeStatus] = []
    now = now or pipeline.catalog.now()
    most = inf if limit is None else max(limit, _MOST_OPEN)
    for page in status_pages(pipeline, derivative, found.invalid, ids):
        for status in page:
            found.by_state[status.state] += 1
            if not bulk and derivative.follows and _is_old_library(status, now):
                # Its links may have expired, and a clip alone is not worth a dead letter.
                continue
            if not bulk and is_unadopted(status, now):
                found.unrecorded_old += 1
                # A library of millions is only counted.
                if found.unrecorded_old <= ADOPTION_ROWS:
                    old.append(status)
            else:
                found.add(status, now if only_due else None)
        found.forget_last_turns(most)
    if found.unrecorded_old <= ADOPTION_ROWS:
        found.needed += old
        found.open.update(status.id for status in old)
        found.unrecorded_old = 0
    found.needed.sort(key=lambda status: status.id)
    found.outdated.sort(key=lambda status: status.id)
    if limit is not None:
        found.needed = _first_turns(found.needed, limit)
        found.outdated = _first_turns(found.outdated, limit - len(found.needed))
    return found


def is_unadopted(status: DerivativeStatus, now: dt.datetime) -> bool:
    """Whether it is of a library older than the pipeline, if more than 500 are."""
    return _is_old_library(status, now) and status.is_missing


def is_touched(status: DerivativeStatus, now: dt.datetime) -> bool:
    """Whether its time is new and it is none the less of a library older than the pipeline.

    It is for the backfill, as the others of that library.
    """
    return _is_old_library(status, now) and not _ended_long_ago(status, now)


def _is_old_library(status: DerivativeStatus, now: dt.datetime) -> bool:
    is_old = _ended_long_ago(status, now) or _began_long_ago(status, now)
    return is_old and status.is_unrecorded


def _ended_long_ago(status: DerivativeStatus, now: dt.datetime) -> bool:
    return status.finished_at is None or status.finished_at < now - ADOPTION_AGE


def _began_long_ago(status: DerivativeStatus, now: dt.datetime) -> bool:
    return status.created_at is not None and status.created_at < now - _TASK_AGE


class BackfillScanner:
    """Surveys at the cost of what has changed.

    The first look, and one a day, assesses every row. The others assess rows that changed, that
    have new events or that were open; and if that is due, all that the projection does not show as
    ready or dead: nothing else tells of a row that changed and kept its time. The memory is lost
    with the process.
    """

    def __init__(self, pipeline: Pipeline, derivative: Derivative) -> None:
        self._pipeline = pipeline
        self._derivative = derivative
        self._open: set[str] = set()
        self._unrecorded_old = 0
        self._projection_helps = derivative.recipe(pipeline.settings) is not None
        self._since = dt.datetime.min.replace(tzinfo=dt.UTC)
        self._event = 0
        # Monotonic times from which on every row is due, and every row but those in the projection.
        self._truth_at = self._all_at = 0.0

    def make_due(self) -> None:
        """Let the next look be at all rows."""
        self._all_at = 0.0

    def look(self, limit: int) -> Survey:
        """Find up to `limit` rows that are due, as `survey` does."""
        started = time.monotonic()
        # Before the rows are read.
        now = self._pipeline.catalog.now()
        since = now - _OVERLAP
        is_known = started < self._truth_at and since >= self._since
        events = self._events() if is_known else None
        event = self._last_event() if events is None else max([self._event, *events])
        ids = None if events is None else self._candidates(events.values(), started)
        is_all = ids is None or started >= self._all_at
        found = survey(
            self._pipeline,
            self._derivative,
            bulk=False,
            limit=limit,
            only_due=True,
            ids=ids,
            unrecorded_old=0 if is_all else self._unrecorded_old,
            now=now,
        )
        if ids is None:
            self._truth_at = started + _DAY_SECONDS
        if is_all:
            self._all_at = self._next_look(started, is_join=ids is not None)
        if len(found.open) > _MOST_OPEN:
            self._truth_at = 0.0
        self._since, self._event = since, event
        self._open, self._unrecorded_old = found.open, found.unrecorded_old
        return found

    def _next_look(self, started: float, *, is_join: bool) -> float:
        """When all rows are due again; after a whole look the projection is soon to be asked."""
        if self._projection_helps and not is_join:
            return 0.0
        ended = time.monotonic()
        rest = (ended - started) * (_REST_OF_JOIN if is_join else _REST_OF_ALL)
        return ended + min(rest, _LONGEST_REST_SECONDS)

    def _last_event(self) -> int:
        return self._pipeline.log.last_event(self._derivative.asset)

    def _events(self) -> dict[int, str] | None:
        """Partitions of new events by id; None: too many, or the last one known is gone.

        The latter is of a database that was restored.
        """
        found = self._pipeline.log.events_after(self._derivative.asset, self._event - 1, _MOST_OPEN)
        is_lost = self._event > 0 and found.pop(self._event, None) is None
        return None if is_lost or len(found) >= _MOST_OPEN - 1 else found

    def _candidates(self, touched: Iterable[str], now: float) -> list[str] | None:
        """Ids of the rows to assess; None: all."""
        place = Position(self._since, "")
        rows = self._pipeline.catalog.after(self._derivative.kind, place, _MOST_OPEN)
        unsettled = self._unsettled() if now >= self._all_at else []
        if unsettled is None or len(rows) >= _MOST_OPEN:
            return None
        return sorted(self._open.union(touched, unsettled, (row.id for _, row in rows)))

    def _unsettled(self) -> list[str] | None:
        """Rows that the projection does not show as ready or dead; None: too many, or not kept."""
        recipe = self._derivative.recipe(self._pipeline.settings)
        if recipe is None:
            return None
        kind, asset = self._derivative.kind, self._derivative.asset
        try:
            ids = self._pipeline.catalog.unsettled(kind, asset, recipe, _DAY_SECONDS, _MOST_OPEN)
        except CatalogError:  # a database may limit the time of a statement
            ids = None
        if ids is not None and len(ids) >= _MOST_OPEN:
            ids = None
        self._projection_helps = ids is not None
        return ids


@cache
def scanner(pipeline: Pipeline, derivative: Derivative) -> BackfillScanner:
    """That of this process."""
    return BackfillScanner(pipeline, derivative)


def adoption_advice(derivative: Derivative, rows: int) -> str:
    """For a library older than the pipeline."""
    return (
        f"{rows} finished {derivative.partition_set} over a day old have no record of a"
        f" {derivative.asset} and are left alone: run `lens adopt` if their {derivative.asset}s"
        " already lie in the store, then `lens backfill` to make the missing ones"
    )
