"""The one Definitions object; explicit lists, no logic."""

import dagster as dg

from lens_pipeline import settings
from lens_pipeline.defs import jobs, sensors
from lens_pipeline.defs.assets.checked_shots import checked_shot
from lens_pipeline.defs.assets.daily_report import daily_report
from lens_pipeline.defs.assets.masters import master_assets
from lens_pipeline.defs.assets.pictures import build_poster, build_preview
from lens_pipeline.defs.assets.renditions import scaled_video
from lens_pipeline.defs.assets.sources import photo_generation, video_generation
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.schedules import build_backfill, retention, retire_partitions
from lens_pipeline.defs.schedules import daily_report as daily_report_schedule


@dg.definitions
def defs() -> dg.Definitions:
    """Evaluated when Dagster loads the code location, not at import: it needs the settings."""
    loaded, _ = settings.load()
    return dg.Definitions(
        assets=[
            photo_generation,
            video_generation,
            build_preview(loaded.batch_size),
            build_poster(loaded.batch_size),
            checked_shot,
            master_assets,
            scaled_video,
            daily_report,
        ],
        jobs=[
            jobs.previews,
            jobs.posters,
            jobs.shot_checks,
            jobs.masters,
            jobs.scaled,
            jobs.daily_reports,
            jobs.retirement,
            jobs.retention_job,
        ],
        sensors=[
            sensors.new_photos,
            sensors.new_videos,
            sensors.new_shots,
            sensors.new_masters,
            sensors.new_scaled,
            sensors.removed_generations,
        ],
        schedules=[
            build_backfill(loaded.backfill_cron),
            daily_report_schedule,
            retire_partitions,
            retention,
        ],
        resources={"lens": LensResource()},
        # A run's process is its worker; a step in a process of its own would cost seconds.
        executor=dg.in_process_executor,
    )
