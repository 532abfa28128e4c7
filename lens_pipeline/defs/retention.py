"""The nightly pruning of Dagster's tables; no status changes. SQL is in `event_log/pruning`."""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.core.locks import LockSession, lock_id
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.event_log import pruning

# Most rows in one transaction, which takes parts of a second and leaves the log whole.
_RUNS, _EVENTS, _TICKS, _CHECK_RESULTS, _BACKFILLS = 50, 2000, 5000, 5000, 500
# A night takes a minute or two; masters wait meanwhile.
_MOST_SECONDS = 900.0
_PAUSE_SECONDS = 0.02
_LOCK = lock_id("retention")
_MINOR = (registry.CHECKED_SHOT.asset,)


@dataclass(frozen=True, slots=True)
class Pruned:
    """Numbers of rows deleted, and whether it ended within its time."""

    events: int = 0
    runs: int = 0
    ticks: int = 0
    check_results: int = 0
    backfills: int = 0
    is_complete: bool = True

    def __str__(self) -> str:
        text = (
            f"{self.events} events, {self.runs} runs, {self.ticks} ticks, {self.check_results}"
            f" results of checks and {self.backfills} records of backfills deleted"
        )
        return text if self.is_complete else f"{text}; the next pruning goes on"


def prune(pipeline: Pipeline, now: dt.datetime, most_seconds: float = _MOST_SECONDS) -> Pruned:
    """Prune unless another process does. Raises SQLAlchemyError: finished transactions stay."""
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
    """`deadline` is a monotonic time."""

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
        for part in (
            self._prune_runs, self._prune_without_run, self._prune_ticks,
            self._prune_check_results, self._prune_backfills,
        ):  # fmt: skip
            self._walk(part)
        return self._done

    def _walk(self, part: Callable[[sa.Connection, int], int | None]) -> None:
        """Call `part` with the place that it returned last."""
        place: int | None = 0
        while place is not None:
            if time.monotonic() >= self._deadline:
                self._done = replace(self._done, is_complete=False)
                return
            with self._engine.begin() as connection:
                place = part(connection, place)
            time.sleep(_PAUSE_SECONDS)

    def _prune_runs(self, connection: sa.Connection, after: int) -> int | None:
        runs = pruning.ended_runs(connection, after, self._events_before, self._runs_before, _RUNS)
        counted = pruning.still_counted(connection, [run.run_id for run in runs], _MINOR)
        going = [run for run in runs if run.run_id not in counted]
        superseded = pruning.superseded_of_runs(connection, [run.run_id for run in going], _MINOR)
        self._delete(connection, superseded)
        old = [run.run_id for run in going if run.ended_at < self._runs_before]
        if old:
            runs_deleted = pruning.delete_runs(connection, old)
            self._done = replace(self._done, runs=self._done.runs + runs_deleted)
        return runs[-1].row if len(runs) == _RUNS else None

    def _prune_without_run(self, connection: sa.Connection, after: int) -> int | None:
        found, place = pruning.superseded_of_no_run(
            connection, after, self._events_before, self._runs_before, _EVENTS
        )
        self._delete(connection, found)
        return place

    def _prune_ticks(self, connection: sa.Connection, _: int) -> int | None:
        deleted = pruning.delete_ticks(connection, self._ticks_before, _TICKS)
        self._done = replace(self._done, ticks=self._done.ticks + deleted)
        return 0 if deleted == _TICKS else None

    def _prune_check_results(self, connection: sa.Connection, _: int) -> int | None:
        deleted = pruning.delete_check_results(connection, self._events_before, _CHECK_RESULTS)
        self._done = replace(self._done, check_results=self._done.check_results + deleted)
        return 0 if deleted == _CHECK_RESULTS else None

    def _prune_backfills(self, connection: sa.Connection, _: int) -> int | None:
        deleted = pruning.delete_backfills(connection, self._runs_before, _BACKFILLS)
        self._done = replace(self._done, backfills=self._done.backfills + deleted)
        return 0 if deleted == _BACKFILLS else None

    def _delete(self, connection: sa.Connection, superseded: Sequence[int]) -> None:
        deleted = pruning.delete_events(connection, superseded)
        self._done = replace(self._done, events=self._done.events + deleted)


def _days_ago(now: dt.datetime, days: int) -> float:
    return (now - dt.timedelta(days=days)).timestamp()
