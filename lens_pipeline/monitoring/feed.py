"""The live feed: one reader of the event log tells the listeners of this process every change."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.status import statuses_of_partitions
from lens_pipeline.event_log.changes import ChangeLog, Position
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.monitoring.threads import BackgroundThread

logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.25
_PROGRESS_SECONDS = 0.8
_RECONNECT_SECONDS = 1.0
_MOST_EVENTS = 500  # of each asset and kind in one reading
_MOST_MISSED = 1000  # of one kind; after more a page had better read everything anew
_REMEMBERED = 50_000  # partitions whose last status is kept: about 30 MiB


@dataclass(frozen=True, slots=True)
class Batch:
    before: Position
    position: Position
    statuses: tuple[DerivativeStatus, ...] = ()
    progress: tuple[DerivativeStatus, ...] = ()
    """Statuses of which only the progress is new."""
    is_reset: bool = False
    """Changes may have been missed: a listener must read everything anew."""


Listener = Callable[[Batch], None]


class Feed(BackgroundThread):
    """Listeners are called on its thread and must return at once.

    The first batch only has the position; the first after a fault is a reset.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        listeners: Sequence[Listener],
        count: Callable[[Sequence[int], Sequence[int]], None],
    ) -> None:
        """`count` gets ids of new materializations and failures; again after SQLAlchemyError."""
        super().__init__("lens-feed")
        self._pipeline = pipeline
        self._listeners = listeners
        self._count = count
        self._changes = ChangeLog(pipeline.endpoints.dagster_url, registry.assets())
        self._position: Position | None = None
        self._touched: dict[str, set[str]] = {}  # by asset: read and not told yet
        self._uncounted: tuple[list[int], list[int]] = ([], [])
        self._told: Position | None = None
        self._is_lost = False
        self._known: OrderedDict[tuple[str, str], DerivativeStatus] = OrderedDict()
        self._progress: dict[str, DerivativeStatus] = {}
        self._progress_at = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether nothing is missed from now on."""
        return self._position is not None

    @property
    def progress(self) -> tuple[DerivativeStatus, ...]:
        return tuple(self._progress.values())

    def stop(self, seconds: float) -> None:
        super().stop(seconds)
        if not self._thread.is_alive():
            self._changes.close()

    def missed(self, text: str) -> Batch | None:
        """What has changed since the position in `text`; None if unknown or too much."""
        position = Position.parse(text, len(registry.DERIVATIVES))
        if position is None or self._told is None:
            return None
        try:
            if position.is_beyond(self._changes.latest()):
                return None
            changes = self._changes.since(position, _MOST_MISSED)
            if changes.more:
                return None
            found = statuses_of_partitions(self._pipeline, changes.touched)
        except (SQLAlchemyError, CatalogError) as error:
            logger.warning("what a browser has missed cannot be read: %s", _reason(error))
            return None
        return Batch(position, changes.position, tuple(found))

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                more = self._step()
                rest = _POLL_SECONDS - (time.monotonic() - started)
                self._stop.wait(0 if more else max(rest, 0.02))
                continue
            except (SQLAlchemyError, CatalogError) as error:
                if not self._is_lost:
                    logger.warning("the feed of changes waits: %s", _reason(error))
            except Exception:
                logger.exception("the feed of changes failed, and goes on")
            self._is_lost = True
            self._stop.wait(_RECONNECT_SECONDS)

    def _step(self) -> bool:
        """Read on and tell the listeners; returns whether there is more to read."""
        changes = self._changes.read(self._place(), _MOST_EVENTS)
        self._position = changes.position
        for asset, keys in changes.touched.items():
            self._touched.setdefault(asset, set()).update(keys)
        self._uncounted[0].extend(changes.materialized)
        self._uncounted[1].extend(changes.failed)
        self._count(*self._uncounted)
        self._uncounted = ([], [])
        touched = self._touched
        changed = self._changed(statuses_of_partitions(self._pipeline, touched)) if touched else []
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
        """Where to read on: at the end of a log that is new, such as a restored one."""
        if self._position is not None and not self._is_lost:
            return self._position
        latest = self._changes.latest()
        if self._position is None or self._position.is_beyond(latest):
            self._uncounted = ([], [])
            self._known.clear()
            self._position = latest
        return self._position

    def _changed(self, found: Iterable[DerivativeStatus]) -> list[DerivativeStatus]:
        changed = []
        for status in found:
            key = (status.asset, status.id)
            known = self._known.pop(key, None)
            if known and status.state is State.NONE and not status.owner:
                # A row that is gone is told to its last owner alone.
                owner = {"user_id": known.user_id, "project_id": known.project_id}
                status = replace(status, **owner)  # noqa: PLW2901
            self._known[key] = status
            if known is None or _shown(known) != _shown(status):
                changed.append(status)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return changed

    def _new_progress(self) -> list[DerivativeStatus]:
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_SECONDS:
            return []
        reported = self._changes.progress()
        unknown = [run for run in reported if run not in self._progress]
        makes = self._progress | (self._made_by(unknown) if unknown else {})
        current = {r: replace(makes[r], progress=reported[r]) for r in reported if r in makes}
        new = [status for run, status in current.items() if self._progress.get(run) != status]
        self._progress = current
        self._progress_at = now
        return new

    def _made_by(self, run_ids: Sequence[str]) -> dict[str, DerivativeStatus]:
        return {
            run: statuses_of_partitions(self._pipeline, {asset: [key]})[0]
            for run, (asset, key) in self._changes.planned(run_ids).items()
        }


def _shown(status: DerivativeStatus) -> tuple[object, ...]:
    return status.state, status.attempts, status.event_id, status.run_id, status.path


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
