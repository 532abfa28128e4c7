"""`dagster-daemon run`, with shorter loops."""

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

# Dagster looks at its sensors every 5 s; this is most of the time from a row to its preview.
SENSOR_LOOP_SECONDS = 1
# Dagster rests in steps of 0.5 s between two looks at the run queue.
QUEUE_LOOP_SECONDS = 0.1


class QuickQueueDaemon(QueuedRunCoordinatorDaemon):
    """Looks at the run queue several times a second: a worker waits for the next run."""

    def __init__(self) -> None:
        super().__init__(interval_seconds=0)

    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: Event
    ) -> DaemonIterator:
        for step in super().core_loop(workspace_process_context, shutdown_event):
            yield step
            if step is SpanMarker.END_SPAN:
                shutdown_event.wait(QUEUE_LOOP_SECONDS)


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
