"""Dagster's daemon of the run queue: which runs begin, and when it looks."""

import os
from contextlib import closing
from threading import Event

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.workspace.context import IWorkspaceProcessContext
from dagster._daemon import controller
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
from lens_pipeline.engine.processes.notify import RunQueueListener
from lens_pipeline.engine.workers.membership import publish
from lens_pipeline.event_log.queue import RunQueueLog

# The longest time between two looks: all but those after a lost notification follow one.
QUEUE_LOOP_SECONDS = 2.0


class LensRunQueueDaemon(QueuedRunCoordinatorDaemon):
    """Begins as many runs as workers have slots, as soon as the queue changes.

    Runs that wait in the broker would have no turns and no time limits.
    """

    def __init__(self) -> None:
        super().__init__(interval_seconds=0)
        loaded = settings.load()[0]
        self._url = resolve(loaded, broker=False).dagster_url
        self._release = Release.of(loaded)
        self._queues = {queue_id(queue, self._release.id): queue for queue in QUEUES}
        self._log = RunQueueLog(self._url)
        self._has_iterated = False

    def core_loop(
        self, workspace_process_context: IWorkspaceProcessContext, shutdown_event: Event
    ) -> DaemonIterator:
        publish(workspace_process_context.instance, self._release)
        with closing(RunQueueListener(self._url)) as listener:
            for step in super().core_loop(workspace_process_context, shutdown_event):
                yield step
                if step is SpanMarker.END_SPAN:
                    if not self._has_iterated:
                        self._give_up()
                    listener.wait(QUEUE_LOOP_SECONDS, shutdown_event)

    def _give_up(self) -> None:
        """End the process: after an error Dagster would only start the daemon again."""
        self._logger.critical(
            "the installed dagster does not call `run_iteration` of the daemon of the run queue:"
            " no run would begin; install the dagster that this version names"
        )
        os._exit(1)

    def run_iteration(
        self,
        workspace_process_context: IWorkspaceProcessContext,
        fixed_iteration_time: float | None = None,
    ) -> DaemonIterator:
        self._has_iterated = True
        instance = workspace_process_context.instance
        yield from self._dequeue_runs_iter(
            workspace_process_context,
            instance.run_coordinator,  # pyright: ignore[reportArgumentType] - by our dagster.yaml
            self._next_runs(instance),
            instance.get_concurrency_config(),
            fixed_iteration_time,
        )

    def _next_runs(self, instance: DagsterInstance) -> list[DagsterRun]:
        """By priority and turns of owners; the stock daemon loads the whole queue."""
        offered = self._log.slots()
        slots = {queue: offered.get(number, 0) for number, queue in self._queues.items()}
        load = self._log.load(QUEUE_TAG, PREVIEWS, max(slots.values()))
        chosen = next_runs(load.waiting, slots, load.under_way)
        if not chosen:
            return []
        found = {run.run_id: run for run in instance.get_runs(RunsFilter(run_ids=chosen))}
        return [found[run_id] for run_id in chosen if run_id in found]


_create_stock_daemon = controller.create_daemon_of_type


def create_daemon_of_type(daemon_type: str, instance: DagsterInstance) -> DagsterDaemon:
    if daemon_type == LensRunQueueDaemon.daemon_type():
        return LensRunQueueDaemon()
    return _create_stock_daemon(daemon_type, instance)
