"""Creates runs and puts them into Dagster's queue; the daemon takes them out."""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import dagster as dg
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import (
    DEFAULT_DAGSTER_ENTRY_POINT,
    JobPythonOrigin,
    RepositoryPythonOrigin,
)
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from kombu.exceptions import OperationalError

from lens_pipeline import settings
from lens_pipeline.core.logs import request_id
from lens_pipeline.core.telemetry import span
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.engine.instance import LOCATION
from lens_pipeline.engine.run_requests import NEW_PRIORITY, of_runs, plan_runs

logger = logging.getLogger(__name__)


class RunQueue:
    """Safe to share between threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        instance: dg.DagsterInstance,
        job: Callable[[str], dg.JobDefinition],
    ) -> None:
        self._pipeline = pipeline
        self.instance = instance
        self._job = job

    def submit(
        self,
        wanted: Mapping[Derivative, Sequence[str]],
        origin: str,
        *,
        priority: int = NEW_PRIORITY,
        owner: str = "",
    ) -> list[str]:
        """Queue runs in a turn of `owner`, a user or project; returns their ids.

        Runs lock partitions and skip what is up to date, so nothing is made twice.
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
        """Create runs for `release` or `discard`; after a minute the daemon fails them."""
        with span("request", {"origin": origin, "request_id": request_id.get()}):
            return [
                create_run(self.instance, self._job(derivative.job), tags, derivative.run_assets)
                for derivative, keys in wanted.items()
                if keys
                for group in of_runs(self._pipeline, derivative, keys)
                for tags in plan_runs(
                    self.instance,
                    derivative,
                    group,
                    derivative.batch_size(self._pipeline.settings),
                    origin,
                    priority=priority,
                    owner=owner,
                )
            ]

    def release(self, runs: Iterable[dg.DagsterRun]) -> None:
        for run in runs:
            enqueue(self.instance, run)

    def discard(self, runs: Iterable[dg.DagsterRun]) -> None:
        for run in runs:
            self.instance.delete_run(run.run_id)

    def cancel(self, unwanted: Mapping[Derivative, Sequence[str]]) -> None:
        """End the runs that make one of these derivatives and nothing else."""
        runs = {
            run_id
            for derivative, keys in unwanted.items()
            for run_id in self._pipeline.log.runs_of(derivative.asset, keys)
        }
        for run_id in runs:
            try:
                self.instance.run_coordinator.cancel_run(run_id)
            except OperationalError as error:
                # Matters only to runs that have not begun.
                logger.warning("the broker does not hear that run %s ends: %s", run_id, error)


# A command itself prints the outcome of every file.
_SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def create_run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    tags: Mapping[str, str],
    assets: Sequence[str] | None = None,
    *,
    silent: bool = False,
) -> dg.DagsterRun:
    """Create a run of all assets or only of `assets`. A `silent` one logs to the UI only."""
    lens, _ = settings.load()
    location = GrpcServerCodeLocationOrigin(lens.code_host, lens.code_port, location_name=LOCATION)
    repository = RemoteRepositoryOrigin(location, "__repository__")
    pointer = ModuleCodePointer("lens_pipeline.definitions", "defs", working_directory=None)
    chosen = {dg.AssetKey(asset) for asset in assets} if assets else None
    return instance.create_run_for_job(
        job_def=job.get_subset(asset_selection=chosen) if chosen else job,
        asset_selection=chosen,
        run_config=_SILENT if silent else None,
        tags={**job.run_tags, **tags},
        status=dg.DagsterRunStatus.NOT_STARTED,
        job_code_origin=JobPythonOrigin(
            job.name,
            RepositoryPythonOrigin(
                executable_path=sys.executable,
                code_pointer=pointer,
                container_image=None,
                entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
                container_context=None,
            ),
        ),
        remote_job_origin=RemoteJobOrigin(repository, job.name),
    )


def submit_run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    tags: Mapping[str, str],
    assets: Sequence[str] | None = None,
) -> str:
    """Returns the run's id."""
    run = create_run(instance, job, tags, assets)
    enqueue(instance, run)
    return run.run_id


def enqueue(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_dagster_event(dg.DagsterEvent.job_enqueue(run), run_id=run.run_id)
