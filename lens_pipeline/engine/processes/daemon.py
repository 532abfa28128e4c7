"""`dagster-daemon run`, with shorter loops."""

from contextlib import closing
from threading import Event

import dagster._daemon.controller
import dagster._daemon.sensor
from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.instance.config import ConcurrencyConfig
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon.cli import run_command
from dagster._daemon.daemon import DaemonIterator, DagsterDaemon, SpanMarker
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import (
    QueuedRunCoordinatorDaemon,
)

from lens_pipeline import settings
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.core.locks import queue_id
from lens_pipeline.derivatives.registry import PREVIEWS, QUEUE_TAG, QUEUES
from lens_pipeline.derivatives.release import Release
from lens_pipeline.derivatives.round_robin import next_runs
from lens_pipeline.engine.processes import startup
from lens_pipeline.engine.processes.notify import Bell
from lens_pipeline.engine.processes.startup import log_as_ours
from lens_pipeline.engine.workers.membership import publish
from lens_pipeline.event_log.queue import RunQueueLog

# Dagster looks at its sensors every 5 s; this is most of the time from a row to its preview. A bit
# more than the sensors' interval of 1 s, or every second look would come just too early.
SENSOR_LOOP_SECONDS = 1.1
# Between two looks at the run queue at the most; most are rung for.
QUEUE_LOOP_SECONDS = 0.5


class QuickQueueDaemon(QueuedRunCoordinatorDaemon):
    """Looks at the run queue as soon as it changes: workers wait for their next run.

    It begins as many runs as the workers of our release, on whichever machine, have slots, so that
    a begun run never waits in the broker, where nobody could order or time it. Without a worker the
    runs stay in the queue.
    """

    def __init__(self) -> None:
        super().__init__(interval_seconds=0)
        loaded = settings.load()[0]
        self._release = Release.of(loaded)
        self._queue_ids = {queue: queue_id(queue, self._release.id) for queue in QUEUES}
        self._log = RunQueueLog(resolve(loaded, broker=False).dagster_url)

    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: Event
    ) -> DaemonIterator:
        publish(workspace_process_context.instance, self._release)
        with closing(Bell(resolve(settings.load()[0], broker=False).dagster_url)) as bell:
            for step in super().core_loop(workspace_process_context, shutdown_event):
                yield step
                if step is SpanMarker.END_SPAN:
                    bell.wait(QUEUE_LOOP_SECONDS, shutdown_event)

    def _get_runs_to_dequeue(
        self,
        instance: DagsterInstance,
        concurrency_config: ConcurrencyConfig,
        fixed_iteration_time: float | None,
    ) -> list[DagsterRun]:
        """The next runs by priority and by their owners' turns.

        Dagster's own method loads the whole queue each time.
        """
        offered = self._log.slots()
        slots = {queue: offered.get(id_, 0) for queue, id_ in self._queue_ids.items()}
        load = self._log.load(QUEUE_TAG, PREVIEWS, max(slots.values()))
        chosen = next_runs(load.waiting, slots, load.under_way)
        if not chosen:
            return []
        found = {run.run_id: run for run in instance.get_runs(RunsFilter(run_ids=chosen))}
        return [found[run_id] for run_id in chosen if run_id in found]


_create_stock_daemon = dagster._daemon.controller.create_daemon_of_type


def create_daemon_of_type(daemon_type: str, instance: DagsterInstance) -> DagsterDaemon:
    if daemon_type == QuickQueueDaemon.daemon_type():
        return QuickQueueDaemon()
    return _create_stock_daemon(daemon_type, instance)


def main() -> None:
    startup.hear()
    log_as_ours(dagster._daemon.controller)
    dagster._daemon.sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS
    dagster._daemon.controller.create_daemon_of_type = create_daemon_of_type
    run_command()


if __name__ == "__main__":
    main()
