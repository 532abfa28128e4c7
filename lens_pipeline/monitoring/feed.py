"""Tells what changes while it changes: one reader of the event log for everybody who listens."""

import datetime as dt
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Generation, Kind, MasterVideo, Row, ScaledVideo
from lens_pipeline.core.threads import BackgroundThread
from lens_pipeline.derivatives.dead_letters import EXPLAINED
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import DERIVATIVES, Derivative
from lens_pipeline.derivatives.status import Assessed, assess, usable
from lens_pipeline.event_log.changes import ChangeLog, Position
from lens_pipeline.event_log.history import State

logger = logging.getLogger(__name__)

ASSETS = tuple(derivative.asset for derivative in DERIVATIVES)
_BY_ASSET = {derivative.asset: derivative for derivative in DERIVATIVES}

_POLL_SECONDS = 0.25
_PROGRESS_SECONDS = 0.8
_RECONNECT_SECONDS = 1.0
# Events of each asset and kind that are looked at together.
_MOST_EVENTS = 500
# Who comes back after more than so many events of one kind reloads everything: that costs less.
_MOST_MISSED = 1000
_KEYS_AT_ONCE = 500
# Partitions of which the last word is kept, to tell only of changes: some 30 MiB.
_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class Status:
    """Where one derivative stands since `at`."""

    kind: Kind
    asset: str
    id: str
    user_id: str | None
    """Whose generation; None for what belongs to a project, and for what is gone."""
    project_id: str | None
    status: State
    attempts: int = 0
    path: str | None = None
    error: str | None = None
    error_class: str | None = None
    run_id: str | None = None
    at: dt.datetime | None = None
    finished_at: dt.datetime | None = field(default=None, compare=False)
    """When its row came to be as it is."""
    event_id: int | None = None
    """The event that made it so, if one did."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing automatic is still to be done."""
        return self.status in (State.READY, State.DEAD)

    def says_the_same_as(self, other: "Status") -> bool:
        return (
            self.status is other.status
            and self.attempts == other.attempts
            and self.event_id == other.event_id
            and self.run_id == other.run_id
            and self.path == other.path
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is that makes a derivative."""

    kind: Kind
    asset: str
    id: str
    user_id: str | None
    project_id: str | None
    percent: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What changed between two positions of the log."""

    before: Position
    position: Position
    statuses: tuple[Status, ...] = ()
    progress: tuple[Progress, ...] = ()
    is_reset: bool = False
    """Something may have been missed: whoever shows anything must read it anew."""


Listener = Callable[[Batch], None]


def statuses(pipeline: Pipeline, touched: Mapping[str, Iterable[str]]) -> list[Status]:
    """Where these partitions, by asset, stand now; a few queries for every 500 of an asset."""
    found: list[Status] = []
    for derivative in DERIVATIVES:
        keys = sorted(touched.get(derivative.asset, ()))
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            found += _statuses(pipeline, derivative, keys[start : start + _KEYS_AT_ONCE])
    return found


def _statuses(pipeline: Pipeline, derivative: Derivative, keys: Sequence[str]) -> list[Status]:
    rows = pipeline.catalog.finished(derivative.kind, keys)
    assessed = {a.row.id: a for a in assess(pipeline, derivative, usable(list(rows.values())))}
    events = [a.standing.event_id for a in assessed.values() if a.standing.event_id]
    details = pipeline.log.details(events) if events else {}
    now = dt.datetime.now(dt.UTC)
    return [
        _status(derivative, assessed[key], details, now)
        if key in assessed
        else Status(derivative.kind, derivative.asset, key, None, None, State.NONE, at=now)
        for key in keys
    ]


def _status(
    derivative: Derivative,
    assessed: Assessed,
    details: Mapping[int, Mapping[str, object]],
    now: dt.datetime,
) -> Status:
    standing, row = assessed.standing, assessed.row
    facts = details.get(standing.event_id or 0, {})
    user_id, project_id = _owner(row)
    error = EXPLAINED.get(standing.error_class or "") or facts.get("error")
    at = facts.get("at")
    return Status(
        kind=derivative.kind,
        asset=derivative.asset,
        id=row.id,
        user_id=user_id,
        project_id=project_id,
        status=standing.state,
        attempts=standing.attempts,
        path=derivative.object_key(row, assessed.revision)
        if standing.state is State.READY
        else None,
        error=str(error) if standing.error_class and error else None,
        error_class=standing.error_class,
        run_id=standing.run_id,
        at=at if isinstance(at, dt.datetime) else now,
        finished_at=row.finished_at,
        event_id=standing.event_id,
    )


def _owner(row: Row) -> tuple[str | None, str | None]:
    """The user or the project that a row belongs to."""
    if isinstance(row, Generation):
        return row.user_id, None
    if isinstance(row, MasterVideo):
        return None, row.project_id
    if isinstance(row, ScaledVideo) and row.master:
        return None, row.master.project_id
    return None, None


class Feed(BackgroundThread):
    """Reads the event log on a thread of its own, and tells listeners of what changed.

    Listeners are called on that thread and must return at once; the first batch only says where
    the feed begins. Without the database it tries again every second, and tells them to start anew
    once it is back.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        listeners: Sequence[Listener],
        count: Callable[[Sequence[int], Sequence[int]], None],
    ) -> None:
        """`count` is given the ids of new materializations and failures, each once. If it raises
        SQLAlchemyError it is given them again.
        """
        super().__init__("lens-feed")
        self._pipeline = pipeline
        self._listeners = listeners
        self._count = count
        self._changes = ChangeLog(pipeline.endpoints.dagster_url, ASSETS)
        # What was read and is not told yet.
        self._position: Position | None = None
        self._touched: dict[str, set[str]] = {}
        self._uncounted: tuple[list[int], list[int]] = ([], [])
        self._told: Position | None = None
        self._is_lost = False
        self._known: OrderedDict[tuple[str, str], Status] = OrderedDict()
        self._progress: dict[str, Progress] = {}
        self._progress_at = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether it knows its place in the log: what happens from now on is read."""
        return self._position is not None

    @property
    def progress(self) -> tuple[Progress, ...]:
        """The last word of every run under way."""
        return tuple(self._progress.values())

    def stop(self, seconds: float) -> None:
        super().stop(seconds)
        if not self._thread.is_alive():
            self._changes.close()

    def missed(self, text: str) -> Batch | None:
        """What has changed since the position of that text, for somebody who comes back.

        None: that is not known, or too much to be told.
        """
        position = Position.parse(text, len(ASSETS))
        if position is None or self._told is None:
            return None
        try:
            if position.is_beyond(self._changes.latest()):
                return None
            changes = self._changes.since(position, _MOST_MISSED)
            if changes.more:
                return None
            found = statuses(self._pipeline, changes.touched)
        except (SQLAlchemyError, CatalogError) as error:
            logger.warning("what a browser has missed cannot be read: %s", _reason(error))
            return None
        return Batch(position, changes.position, tuple(found))

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                more = self._step()
            except (SQLAlchemyError, CatalogError) as error:
                if not self._is_lost:
                    logger.warning("the feed of changes waits: %s", _reason(error))
                self._is_lost = True
                self._stop.wait(_RECONNECT_SECONDS)
                continue
            except Exception:
                logger.exception("the feed of changes failed, and goes on")
                self._is_lost = True
                self._stop.wait(_RECONNECT_SECONDS)
                continue
            rest = _POLL_SECONDS - (time.monotonic() - started)
            self._stop.wait(0 if more else max(rest, 0.02))

    def _step(self) -> bool:
        """Read on and tell; whether there is more to read already."""
        changes = self._changes.read(self._place(), _MOST_EVENTS)
        self._position = changes.position
        for asset, keys in changes.touched.items():
            self._touched.setdefault(asset, set()).update(keys)
        self._uncounted[0].extend(changes.materialized)
        self._uncounted[1].extend(changes.failed)
        self._count(*self._uncounted)
        self._uncounted = ([], [])
        changed = self._changed(statuses(self._pipeline, self._touched)) if self._touched else []
        progress = self._new_progress()
        self._touched = {}
        was_lost, self._is_lost = self._is_lost, False
        is_first = self._told is None
        before, self._told = self._told or self._position, self._position
        if was_lost:
            logger.info("the feed of changes goes on")
        if changed or progress or was_lost or is_first:
            batch = Batch(before, self._told, tuple(changed), tuple(progress), was_lost)
            for listener in self._listeners:
                listener(batch)
        return changes.more

    def _place(self) -> Position:
        """Where to read on: at first the end of the log, and that of another, such as a restored
        one, that has taken its place.
        """
        if self._position is not None and not self._is_lost:
            return self._position
        latest = self._changes.latest()
        if self._position is None or self._position.is_beyond(latest):
            self._uncounted = ([], [])
            self._known.clear()
            self._position = latest
        return self._position

    def _changed(self, found: Iterable[Status]) -> list[Status]:
        """Those that say something new."""
        changed = []
        for status in found:
            key = (status.asset, status.id)
            known = self._known.pop(key, None)
            if known and status.status is State.NONE and not (status.user_id or status.project_id):
                # Its row is gone, and those who saw it should know.
                status = replace(  # noqa: PLW2901
                    status, user_id=known.user_id, project_id=known.project_id
                )
            self._known[key] = status
            if known is None or not status.says_the_same_as(known):
                changed.append(status)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return changed

    def _new_progress(self) -> list[Progress]:
        """What runs under way say anew."""
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_SECONDS:
            return []
        reported = self._changes.progress()
        unknown = [run for run in reported if run not in self._progress]
        found = {run: self._progress[run] for run in reported if run in self._progress}
        found |= self._first_progress(unknown) if unknown else {}
        current = {
            run: replace(progress, text=reported[run].text, percent=reported[run].percent)
            for run, progress in found.items()
        }
        new = [progress for run, progress in current.items() if self._progress.get(run) != progress]
        self._progress = current
        self._progress_at = now
        return new

    def _first_progress(self, run_ids: Sequence[str]) -> dict[str, Progress]:
        """What these runs make; how far they are is still to be filled in."""
        found: dict[str, Progress] = {}
        for run, (asset, key) in self._changes.planned(run_ids).items():
            kind = _BY_ASSET[asset].kind
            row = self._pipeline.catalog.finished(kind, [key]).get(key)
            user_id, project_id = (
                _owner(usable([row])[0]) if row and usable([row]) else (None, None)
            )
            found[run] = Progress(kind, asset, key, user_id, project_id, None, "")
        return found


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
