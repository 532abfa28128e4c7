"""Keeps what Dagster has written about runs and ticks from growing for ever.

A night's pruning goes in short transactions, oldest first. Each leaves the log whole: one that is
broken off, or killed, has only done less. What `status`, the feed and `lens_generations` say is the
same before and after.
"""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.core.locks import LockSession, lock_id
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.event_log import pruning

# Of each transaction: some thousand events, parts of a second.
_RUNS = 50
_EVENTS = 2000
_TICKS = 5000
# A night's work takes a minute or two; with years to prune the next one goes on. Masters wait.
_MOST_SECONDS = 900.0
# Between transactions: others have work to do.
_PAUSE_SECONDS = 0.02
_LOCK = lock_id("retention")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning has deleted."""

    events: int = 0
    runs: int = 0
    ticks: int = 0
    is_complete: bool = True
    """Whether it came to its end within its time."""

    def __str__(self) -> str:
        text = f"{self.events} events, {self.runs} runs and {self.ticks} ticks deleted"
        return text if self.is_complete else f"{text}; the next pruning goes on"


def prune(pipeline: Pipeline, now: dt.datetime, most_seconds: float = _MOST_SECONDS) -> Pruned:
    """Delete what is older than LENS_RETAIN_…_DAYS and nothing needs; nothing if another one is at
    it. Raises SQLAlchemyError: what was done until then stays done.
    """
    session = LockSession(pipeline.endpoints.dagster_url)
    engine = postgres.connect("lens-pipeline-retention", pipeline.endpoints.dagster_url)
    try:
        if not session.try_all([_LOCK]):
            return Pruned(is_complete=False)
        return _Pruning(pipeline, engine, now, time.monotonic() + most_seconds).work()
    finally:
        engine.dispose()
        session.close()


class _Pruning:
    """One pruning, until a deadline of the monotonic clock."""

    def __init__(
        self, pipeline: Pipeline, engine: sa.Engine, now: dt.datetime, deadline: float
    ) -> None:
        settings = pipeline.settings
        self._engine = engine
        self._deadline = deadline
        self._events_before = _days_ago(now, settings.retain_events_days)
        self._runs_before = _days_ago(now, settings.retain_runs_days)
        self._ticks_before = _days_ago(now, settings.retain_ticks_days)
        self._done = Pruned()

    def work(self) -> Pruned:
        for part in (self._prune_runs, self._prune_without_run, self._prune_ticks):
            self._walk(part)
        return self._done

    def _walk(self, part: Callable[[sa.Connection, int], int | None]) -> None:
        """Let `part` go on from where it says, a transaction each, to its end or the deadline."""
        place: int | None = 0
        while place is not None:
            if time.monotonic() >= self._deadline:
                self._done = replace(self._done, is_complete=False)
                return
            before = self._done
            try:
                with self._engine.begin() as connection:
                    place = part(connection, place)
            except BaseException:
                self._done = before
                raise
            time.sleep(_PAUSE_SECONDS)

    def _prune_runs(self, connection: sa.Connection, after: int) -> int | None:
        runs = pruning.ended_runs(connection, after, self._events_before, self._runs_before, _RUNS)
        counted = pruning.still_counted(connection, [run.run_id for run in runs])
        going = [run for run in runs if run.run_id not in counted]
        self._delete(
            connection, pruning.superseded_of_runs(connection, [run.run_id for run in going])
        )
        old = [run.run_id for run in going if run.ended_at < self._runs_before]
        if old:
            runs_deleted = pruning.delete_runs(connection, old)
            self._done = replace(self._done, runs=self._done.runs + runs_deleted)
        return runs[-1].row if len(runs) == _RUNS else None

    def _prune_without_run(self, connection: sa.Connection, after: int) -> int | None:
        superseded, place = pruning.superseded_of_no_run(
            connection, after, self._events_before, _EVENTS
        )
        self._delete(connection, superseded)
        return place

    def _prune_ticks(self, connection: sa.Connection, _: int) -> int | None:
        deleted = pruning.delete_ticks(connection, self._ticks_before, _TICKS)
        self._done = replace(self._done, ticks=self._done.ticks + deleted)
        return 0 if deleted == _TICKS else None

    def _delete(self, connection: sa.Connection, superseded: Sequence[int]) -> None:
        deleted = pruning.delete_events(connection, superseded)
        self._done = replace(self._done, events=self._done.events + deleted)


def _days_ago(now: dt.datetime, days: int) -> float:
    return (now - dt.timedelta(days=days)).timestamp()
