"""Dagster's own sensor and schedule loops, once a clock that was fast is right again."""

import datetime as dt
import logging
import threading
from collections.abc import Iterator
from typing import Any

import dagster._daemon.daemon as daemon_loop
import dagster._daemon.sensor as sensor_loop
import dagster._scheduler.scheduler as schedule_loop
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import SensorInstigatorData
from dagster._core.test_utils import create_test_daemon_workspace_context, instance_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, IntervalDaemon

from lens_pipeline.engine import wall_clock
from lens_pipeline.engine.processes.daemon import create_daemon_of_type

pytestmark = pytest.mark.slow

CODE = """
import dagster as dg

@dg.job
def nothing():
    pass

@dg.sensor(job=nothing, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def looks(context):
    return dg.SkipReason("nothing new")

@dg.schedule(
    job=nothing, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
def tidies(context):
    return dg.SkipReason("nothing to do")

defs = dg.Definitions(sensors=[looks], schedules=[tidies])
"""
FAST = dt.timedelta(days=1)
logger = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceProcessContext]:
    file = tmp_path_factory.mktemp("code") / "code.py"
    file.write_text(CODE)
    target = PythonFileTarget(str(file), None, str(file.parent), "code")
    with (
        instance_for_test() as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        yield context


@pytest.fixture(autouse=True)
def _following(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (sensor_loop, "get_elapsed"),
        (schedule_loop, "launch_scheduled_runs"),
        (daemon_loop, "time"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    wall_clock.follow()


def test_a_sensor_that_ticked_in_the_future_ticks_now(workspace: WorkspaceProcessContext) -> None:
    """A site that takes up nothing new for a day, since a clock was a day fast for a minute."""
    _tick_sensors(workspace)
    (state,) = workspace.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    future = (dt.datetime.now(dt.UTC) + FAST).timestamp()
    workspace.instance.update_instigator_state(
        state.with_data(
            SensorInstigatorData(last_tick_timestamp=future, last_tick_start_timestamp=future)
        )
    )
    before = len(_ticks(workspace, state))
    _tick_sensors(workspace)
    assert len(_ticks(workspace, state)) == before + 1
    _tick_sensors(workspace)  # at once: its interval counts again
    assert len(_ticks(workspace, state)) == before + 1


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_schedule_that_ticked_in_the_future_ticks_now(
    workspace: WorkspaceProcessContext, is_restarted: bool
) -> None:
    """Gaps that nobody fills for a day, for the same reason."""
    instance = workspace.instance
    times: dict[str, Any] = {}
    now = dt.datetime(2030, 1, 1, 12, 0, 5, tzinfo=dt.UTC) + is_restarted * dt.timedelta(hours=1)
    minute = dt.timedelta(minutes=1)
    for moment in (now, now + minute, now + FAST, now + FAST + minute):
        _tick_schedules(workspace, moment, times)
    (state,) = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    before = len(_ticks(workspace, state))
    if is_restarted:
        times.clear()
    for number in (2, 3, 4):
        _tick_schedules(workspace, now + number * minute, times)
    after = _ticks(workspace, state)
    assert len(after) >= before + 2
    assert max(tick.timestamp for tick in after) < (now + 5 * minute).timestamp()


def test_a_loop_goes_on_after_the_clock_was_set_back_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A queue of runs that nobody begins for four minutes, as long as the clock was fast."""
    clock = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: clock[0])

    class Looking(IntervalDaemon):
        looks = 0

        @classmethod
        def daemon_type(cls) -> str:
            return "LOOKING"

        def run_iteration(self, workspace_process_context: object) -> DaemonIterator:
            self.looks += 1
            clock[0] -= 240
            yield

    looking = Looking(interval_seconds=0)
    steps = looking.core_loop(WorkspaceProcessContext, threading.Event())
    for _ in range(30):
        next(steps)
    assert looking.looks > 2


def test_no_loop_waits_longer_than_it_ever_should() -> None:
    """New photos that wait as long: Dagster's loop of sensors sleeps for what is left of it."""
    asked: list[float | None] = []

    class Shutdown(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            asked.append(timeout)
            return self.is_set()

    class Waiting(DagsterDaemon):
        @classmethod
        def daemon_type(cls) -> str:
            return "WAITING"

        def core_loop(
            self, workspace_process_context: object, shutdown_event: threading.Event
        ) -> DaemonIterator:
            for seconds in (241, 0.5, None):
                assert shutdown_event.wait(seconds) is shutdown_event.is_set() is True
                yield None

    stop = Shutdown()
    stop.set()
    list(wall_clock.bound(Waiting(), 1.5).core_loop(None, stop))
    assert asked == [1.5, 0.5, 1.5]
    with instance_for_test() as instance:
        for daemon_type in ("SENSOR", "SCHEDULER", "BACKFILL", "MONITORING"):
            daemon = create_daemon_of_type(daemon_type, instance)
            assert daemon.core_loop.__qualname__.startswith("bound.")


def _tick_sensors(workspace: WorkspaceProcessContext) -> None:
    list(sensor_loop.execute_sensor_iteration(workspace, logger, None, None))


def _tick_schedules(
    workspace: WorkspaceProcessContext, moment: dt.datetime, times: dict[str, Any]
) -> None:
    list(schedule_loop.launch_scheduled_runs(workspace, logger, moment, times))


def _ticks(workspace: WorkspaceProcessContext, state: Any) -> list[Any]:
    return list(workspace.instance.get_ticks(state.instigator_origin_id, state.selector_id))
