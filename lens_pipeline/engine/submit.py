"""Creates runs without the web server or daemon: for the backfill, and for commands."""

import sys
from collections.abc import Mapping, Sequence

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
)
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

from lens_pipeline import settings

LOCATION = "lens_pipeline"
_MODULE = "lens_pipeline.definitions"
_ATTRIBUTE = "defs"
_REPOSITORY = "__repository__"


# For a command, which itself says how every file came out.
_SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def create_run(
    instance: DagsterInstance,
    job: JobDefinition,
    tags: Mapping[str, str],
    assets: Sequence[str] | None = None,
    *,
    silent: bool = False,
) -> DagsterRun:
    """Create a run of `job`, its planned events included, that `execute` or the queue can take.

    It makes all that the job does, or only `assets`.

    A `silent` one writes nothing to standard error; its log is in the UI all the same.
    """
    chosen = {AssetKey(asset) for asset in assets} if assets else None
    return instance.create_run_for_job(
        job_def=job.get_subset(asset_selection=chosen) if chosen else job,
        asset_selection=chosen,
        run_config=_SILENT if silent else None,
        tags={**job.run_tags, **tags},
        status=DagsterRunStatus.NOT_STARTED,
        job_code_origin=JobPythonOrigin(
            job.name,
            RepositoryPythonOrigin(
                executable_path=sys.executable,
                code_pointer=ModuleCodePointer(_MODULE, _ATTRIBUTE, working_directory=None),
                container_image=None,
                entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
                container_context=None,
            ),
        ),
        remote_job_origin=RemoteJobOrigin(
            RemoteRepositoryOrigin(_code_location(), _REPOSITORY), job.name
        ),
    )


def submit_run(
    instance: DagsterInstance,
    job: JobDefinition,
    tags: Mapping[str, str],
    assets: Sequence[str] | None = None,
) -> str:
    """Create a run as `create_run` does and put it into the queue; returns its id."""
    run = create_run(instance, job, tags, assets)
    enqueue(instance, run)
    return run.run_id


def enqueue(instance: DagsterInstance, run: DagsterRun) -> None:
    """Put a run that `create_run` made into the queue."""
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run_id=run.run_id)


def _code_location() -> GrpcServerCodeLocationOrigin:
    lens, _ = settings.load()
    return GrpcServerCodeLocationOrigin(
        host=lens.code_host, port=lens.code_port, location_name=LOCATION
    )
