"""Dagster's sensors and schedules after the clock was set back.

They remember when they were last evaluated and wait for the time after it. One evaluation under a
clock that was four minutes fast, and a site stands still for four minutes once it is right again.
"""

import datetime as dt
import logging
from typing import Any

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
from dagster._daemon.daemon import DaemonIterator
from dagster._scheduler.scheduler import ScheduleIterationTimes

_stock_elapsed = dagster._daemon.sensor.get_elapsed
_stock_launch = dagster._scheduler.scheduler.launch_scheduled_runs


def follow() -> None:
    """From now on, what was evaluated in the future holds nothing up in this process."""
    dagster._daemon.sensor.get_elapsed = _elapsed
    dagster._scheduler.scheduler.launch_scheduled_runs = _launch_scheduled_runs


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
