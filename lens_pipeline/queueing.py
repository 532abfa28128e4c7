"""Puts runs into Dagster's queue for what people and the provider ask for: not at the next tick."""

import logging
import threading
from collections.abc import Mapping, Sequence

import dagster as dg
from kombu.exceptions import OperationalError

from lens_pipeline.derivatives import Derivative
from lens_pipeline.engine.submit import submit_run
from lens_pipeline.pipeline import Pipeline
from lens_pipeline.runs import NEW_PRIORITY, plan_runs

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
    ) -> list[str]:
        """Ask for these derivatives of these ids; returns the ids of the runs.

        A partition that another run works on meanwhile is not made twice: runs lock partitions
        and skip what is up to date.
        """
        settings = self._pipeline.settings
        return [
            submit_run(self.instance, self._job(derivative), tags, derivative.run_assets)
            for derivative, keys in wanted.items()
            if keys
            for tags in plan_runs(
                self.instance,
                derivative,
                keys,
                derivative.batch_size(settings),
                origin,
                priority=priority,
            )
        ]

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
