"""Puts runs into Dagster's queue; `processes.run_queue_daemon` takes them out."""

from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG
from dagster._serdes import ConfigurableClassData

from lens_pipeline import settings
from lens_pipeline.derivatives.registry import QUEUE_TAG, QUEUES, run_tags
from lens_pipeline.engine.run_requests import BACKFILL_PRIORITY
from lens_pipeline.event_log.tags import MAX_RUNTIME_TAG, PRIORITY_TAG


class LensRunCoordinator(QueuedRunCoordinator):
    """Queues every run for its Celery queue."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "LensRunCoordinator":
        return cls(
            # The daemon counts the slots of workers instead.
            max_concurrent_runs=-1,
            dequeue_interval_seconds=1,
            dequeue_use_threads=True,
            dequeue_num_workers=4,
            inst_data=inst_data,
        )

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        added = {}
        # Started by hand from the UI, perhaps again after `lens once`.
        if run.tags.get(QUEUE_TAG) not in QUEUES:
            assets = [key.to_user_string() for key in run.asset_selection or ()]
            added = run_tags(assets, settings.load()[0])
            if wished := run.tags.get(MAX_RUNTIME_TAG):
                added[MAX_RUNTIME_TAG] = wished
        if BACKFILL_ID_TAG in run.tags and PRIORITY_TAG not in run.tags:
            added[PRIORITY_TAG] = str(BACKFILL_PRIORITY)
        if added:
            self._instance.add_run_tags(run.run_id, added)
        return super().submit_run(context)
