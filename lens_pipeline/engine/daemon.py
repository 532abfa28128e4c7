"""`dagster-daemon run`, with shorter loops."""

from contextlib import closing
from threading import Event

import dagster._daemon.controller
import dagster._daemon.sensor
from dagster import DagsterInstance
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon.cli import run_command
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, SpanMarker
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from lens_pipeline import settings
from lens_pipeline.engine.bell import Bell
from lens_pipeline.stack.endpoints import resolve

# Dagster looks at its sensors every 5 s; this is most of the time from a row to its preview. A bit
# more than the sensors' interval of 1 s, or every second look would come just too early.
SENSOR_LOOP_SECONDS = 1.1
# Between two looks at the run queue at the most; most are rung for.
QUEUE_LOOP_SECONDS = 0.5


class QuickQueueDaemon(QueuedRunCoordinatorDaemon):
    """Looks at the run queue as soon as it changes: workers wait for their next run."""

    def __init__(self) -> None:
        super().__init__(interval_seconds=0)

    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: Event
    ) -> DaemonIterator:
        with closing(Bell(resolve(settings.load()[0], broker=False).dagster_url)) as bell:
            for step in super().core_loop(workspace_process_context, shutdown_event):
                yield step
                if step is SpanMarker.END_SPAN:
                    bell.wait(QUEUE_LOOP_SECONDS, shutdown_event)


_create_stock_daemon = dagster._daemon.controller.create_daemon_of_type


def create_daemon_of_type(daemon_type: str, instance: DagsterInstance) -> DagsterDaemon:
    if daemon_type == QuickQueueDaemon.daemon_type():
        return QuickQueueDaemon()
    return _create_stock_daemon(daemon_type, instance)


def main() -> None:
    dagster._daemon.sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS
    dagster._daemon.controller.create_daemon_of_type = create_daemon_of_type
    run_command()


if __name__ == "__main__":
    main()
