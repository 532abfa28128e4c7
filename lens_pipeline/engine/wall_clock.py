"""Dagster's daemons after the clock was set back.

Sensors and schedules remember when they were last evaluated and wait for the time after it. One
evaluation under a clock that was four minutes fast, and a site stands still for four minutes once
it is right again. So it does where the clock is set back between the two times by which a loop
measures how long to wait.
"""

import datetime as dt
import logging
from threading import Event
from time import monotonic, sleep
from typing import Any

import dagster._daemon.daemon
import dagster._daemon.sensor
import dagster._scheduler.scheduler
from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorTick,
    ScheduleInstigatorData,
)
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon
from dagster._scheduler.scheduler import ScheduleIterationTimes

# No loop of Dagster's waits longer: that of the schedules waits for the next minute.
LOOP_SECONDS = 60.0

_stock_elapsed = dagster._daemon.sensor.get_elapsed
_stock_launch = dagster._scheduler.scheduler.launch_scheduled_runs


def follow() -> None:
    """From now on, what was evaluated in the future holds nothing up in this process."""
    dagster._daemon.sensor.get_elapsed = _elapsed
    dagster._scheduler.scheduler.launch_scheduled_runs = _launch_scheduled_runs
    # This module asks it for nothing but how long an iteration took.
    dagster._daemon.daemon.time = _Stopwatch  # pyright: ignore[reportPrivateImportUsage]


class _Stopwatch:
    """What of the module `time` is used to measure, by a clock that nobody can set."""

    time = staticmethod(monotonic)
    sleep = staticmethod(sleep)


def bound(daemon: DagsterDaemon, seconds: float) -> DagsterDaemon:
    """Have the loop of `daemon` wait no longer than this at a time, whatever it calculates."""
    stock_loop = daemon.core_loop

    def core_loop(workspace_process_context: Any, shutdown_event: Event) -> DaemonIterator:
        yield from stock_loop(workspace_process_context, _Bounded(shutdown_event, seconds))

    daemon.core_loop = core_loop
    return daemon


class _Bounded(Event):
    """An event that is waited for so many seconds at the most."""

    def __init__(self, event: Event, seconds: float) -> None:
        super().__init__()
        self._event = event
        self._seconds = seconds

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self._event.wait(self._seconds if timeout is None else min(timeout, self._seconds))


def _elapsed(state: InstigatorState) -> float | None:
    """Seconds since the sensor's last tick; None: there was none yet."""
    elapsed = _stock_elapsed(state)
    return None if elapsed is not None and elapsed < 0 else elapsed


def _launch_scheduled_runs(
    workspace_process_context: IWorkspaceProcessContext,
    logger: logging.Logger,
    end_datetime_utc: dt.datetime,
    iteration_times: dict[str, ScheduleIterationTimes],
    **options: Any,
) -> DaemonIterator:
    now = end_datetime_utc.timestamp()
    for selector_id, times in list(iteration_times.items()):
        if times.last_iteration_timestamp > now:
            del iteration_times[selector_id]
    _bring_schedules_back(workspace_process_context.instance, now)
    yield from _stock_launch(
        workspace_process_context, logger, end_datetime_utc, iteration_times, **options
    )


def _bring_schedules_back(instance: DagsterInstance, now: float) -> None:
    """Let what the schedules did after `now` (seconds since 1970) have been done at that time."""
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        data = state.instigator_data
        if isinstance(data, ScheduleInstigatorData) and (data.last_iteration_timestamp or 0) > now:
            data = data._replace(last_iteration_timestamp=now)
            instance.update_instigator_state(state.with_data(data))
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=now)
        for tick in ticks:
            moved = tick.tick_data.with_status(tick.status, timestamp=now)
            instance.update_tick(InstigatorTick(tick.tick_id, moved))
