"""Dagster's run queue, with its limits taken from our settings."""

from collections.abc import Mapping
from typing import Any

from dagster import DagsterRun
from dagster._config.config_schema import UserConfigSchema
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._serdes import ConfigurableClassData

from lens_pipeline import settings
from lens_pipeline.engine.queues import MASTERS, PREVIEWS, QUEUE_TAG, queue_of


class LensRunCoordinator(QueuedRunCoordinator):
    """Queues every run under the limit of its Celery queue, wherever the run was started from.

    The limit equals the workers' slots, so that a started run never waits in the broker, where
    Dagster could neither order nor time it.
    """

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "LensRunCoordinator":
        lens = settings.load()[0]
        return cls(
            max_concurrent_runs=-1,
            tag_concurrency_limits=[
                {"key": QUEUE_TAG, "value": PREVIEWS, "limit": lens.preview_concurrency},
                {"key": QUEUE_TAG, "value": MASTERS, "limit": lens.master_concurrency},
            ],
            dequeue_interval_seconds=1,
            dequeue_use_threads=True,
            dequeue_num_workers=4,
            inst_data=inst_data,
        )

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        if QUEUE_TAG not in run.tags:  # started by hand from the UI
            assets = [key.to_user_string() for key in run.asset_selection or ()]
            self._instance.add_run_tags(run.run_id, {QUEUE_TAG: queue_of(assets)})
        return super().submit_run(context)
