"""The one Definitions object, from the definitions in `defs`; no logic."""

from functools import cache

import dagster as dg

from lens_pipeline import settings
from lens_pipeline.defs import jobs, schedules, sensors
from lens_pipeline.defs.assets.daily_report import daily_report
from lens_pipeline.defs.assets.derivatives import derivative_assets
from lens_pipeline.defs.checks import check_objects
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.engine.commands import one_line


@dg.definitions
def defs() -> dg.Definitions:
    """Evaluated when Dagster loads the code location, not at import: it needs the settings."""
    with one_line():
        loaded, _ = settings.load()
    return dg.Definitions(
        assets=[*derivative_assets(loaded), *dg.with_source_code_references([daily_report])],
        asset_checks=[check_objects],
        jobs=[
            *jobs.derivative_jobs(loaded),
            jobs.daily_reports,
            jobs.object_checks,
            jobs.retirement,
            jobs.retention_job,
        ],
        sensors=[
            *sensors.derivative_sensors(),
            sensors.removed_generations,
            sensors.unfinished_tasks(loaded),
        ],
        schedules=[
            *schedules.backfill_schedules(loaded.backfill_cron),
            schedules.daily_report,
            schedules.retire_partitions,
            schedules.retention,
            schedules.objects_intact,
        ],
        resources={"lens": LensResource.of(loaded)},
        # A run's process is its worker; a step in a process of its own would cost seconds.
        executor=dg.in_process_executor,
    )


def job(name: str) -> dg.JobDefinition:
    """The job of that name, from the definitions of this process."""
    return repository().get_job(name)


@cache
def repository() -> dg.RepositoryDefinition:
    """The definitions, built once a process."""
    return defs().get_repository_def()
