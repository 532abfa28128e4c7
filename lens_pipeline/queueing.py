"""Puts runs into Dagster's queue for what people and the provider ask for: not at the next tick."""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
from kombu.exceptions import OperationalError

from lens_pipeline.core.logs import request_id
from lens_pipeline.core.telemetry import span
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.engine.run_requests import NEW_PRIORITY, plan_runs
from lens_pipeline.engine.submit import create_run, enqueue

logger = logging.getLogger(__name__)


class RunQueue:
    """The queue that the daemon launches runs from. Safe to share between threads."""

    def __init__(self, pipeline: Pipeline, instance: dg.DagsterInstance) -> None:
        self._pipeline = pipeline
        self.instance = instance
        self._lock = threading.Lock()
        self._repository: dg.RepositoryDefinition | None = None

    def submit(
        self,
        wanted: Mapping[Derivative, Sequence[str]],
        origin: str,
        *,
        priority: int = NEW_PRIORITY,
        owner: str = "",
    ) -> list[str]:
        """Ask for these derivatives of these ids; returns the ids of the runs.

        `owner`: the user or project that waits for all of them, whose turn they take.

        A partition that another run works on meanwhile is not made twice: runs lock partitions
        and skip what is up to date.
        """
        runs = self.prepare(wanted, origin, priority=priority, owner=owner)
        self.release(runs)
        return [run.run_id for run in runs]

    def prepare(
        self,
        wanted: Mapping[Derivative, Sequence[str]],
        origin: str,
        *,
        priority: int = NEW_PRIORITY,
        owner: str = "",
    ) -> list[dg.DagsterRun]:
        """The runs that `submit` would queue: everybody sees that they are to come, none begins.

        `release` or `discard` them; forgotten ones are failed by the daemon after a minute.
        """
        with span("request", {"origin": origin, "request_id": request_id.get()}):
            return self._prepared(wanted, origin, priority, owner)

    def _prepared(
        self, wanted: Mapping[Derivative, Sequence[str]], origin: str, priority: int, owner: str
    ) -> list[dg.DagsterRun]:
        settings = self._pipeline.settings
        return [
            create_run(self.instance, self._job(derivative), tags, derivative.run_assets)
            for derivative, keys in wanted.items()
            if keys
            for tags in plan_runs(
                self.instance,
                derivative,
                keys,
                derivative.batch_size(settings),
                origin,
                priority=priority,
                owner=owner,
            )
        ]

    def release(self, runs: Iterable[dg.DagsterRun]) -> None:
        """Put prepared runs into the queue."""
        for run in runs:
            enqueue(self.instance, run)

    def discard(self, runs: Iterable[dg.DagsterRun]) -> None:
        """Forget prepared runs, as if they had never been."""
        for run in runs:
            self.instance.delete_run(run.run_id)

    def cancel(self, unwanted: Mapping[Derivative, Sequence[str]]) -> None:
        """End the runs that are to make one of these derivatives and nothing else."""
        runs = {
            run_id
            for derivative, keys in unwanted.items()
            for key in keys
            for run_id in self._pipeline.log.runs_of(derivative.asset, key)
        }
        for run_id in runs:
            try:
                self.instance.run_coordinator.cancel_run(run_id)
            except OperationalError as error:
                # Only of a run that no worker has begun would the broker have had to know.
                logger.warning("the broker does not hear that run %s ends: %s", run_id, error)

    def _job(self, derivative: Derivative) -> dg.JobDefinition:
        with self._lock:
            if self._repository is None:
                from lens_pipeline.definitions import defs

                self._repository = defs().get_repository_def()
        return self._repository.get_job(derivative.job)
