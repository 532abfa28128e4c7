"""The launch of runs on Celery workers, their health and their end."""

import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher

from lens_pipeline import settings
from lens_pipeline.core.endpoints import Endpoints, resolve
from lens_pipeline.core.locks import LockSession, run_lock
from lens_pipeline.derivatives.registry import PREVIEWS, QUEUE_TAG
from lens_pipeline.derivatives.release import Release
from lens_pipeline.engine.workers.app import (
    EXECUTE_RUN,
    app_arguments,
    celery_queue,
    declare_queues,
    execute_run_task,
    launch_signature,
)
from lens_pipeline.event_log.tags import TASK_TAG

# A worker takes its lock again a second after a restart of the database. Longer than the time
# between two polls of a run.
_LOST_SECONDS = 15.0


class LensRunLauncher(CeleryRunLauncher):
    """`CeleryRunLauncher` with a lock as the sign of life.

    With the stock launcher a cancelled run fails, and a run of a lost machine lives for ever.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        release: Release,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        arguments = app_arguments(endpoints)
        super().__init__(
            default_queue=PREVIEWS,
            broker=arguments["broker"],
            backend=arguments["backend"],
            config_source=arguments["config_source"],
            inst_data=inst_data,
        )
        self._dagster_url = endpoints.dagster_url
        self._release = release
        declare_queues(self.celery, release)
        self._execute_run = execute_run_task(self.celery)
        self._missing_since: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> "LensRunLauncher":
        loaded = settings.load()[0]
        return cls(resolve(loaded), Release.of(loaded), inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """As the stock launcher, but with one event in place of two, and a tag that is hidden."""
        run = context.dagster_run
        queue = celery_queue(run.tags.get(QUEUE_TAG, PREVIEWS), self._release)
        signature = launch_signature(self._execute_run, run.run_id)
        # Before the worker, which may begin at once, changes the tags.
        task_id = uuid.uuid4().hex
        self._instance.add_run_tags(run.run_id, {TASK_TAG: task_id})
        signature.apply_async(task_id=task_id, queue=queue, routing_key=f"{queue}.{EXECUTE_RUN}")
        self._instance.report_engine_event(f"Sent to the queue {queue}.", run, cls=type(self))

    def terminate(self, run_id: str) -> bool:
        """The worker stops within about a second."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        task_id = run.tags.get(TASK_TAG)
        if task_id is not None:
            # It drops only a task that no worker has begun.
            self.celery.control.revoke(task_id)
        if not self._has_worker(run_id):
            self._instance.report_run_canceled(run, "Cancelled before a worker began.")
        return True

    @property
    def supports_resume_run(self) -> bool:
        return False

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if self._has_worker(run.run_id):
            self._missing_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        since = self._missing_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < _LOST_SECONDS:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        del self._missing_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.FAILED, "The worker of this run is gone.")

    def get_run_worker_debug_info(
        self, run: DagsterRun, include_container_logs: bool | None = True
    ) -> None:
        """The stock launcher needs a result backend."""

    def _has_worker(self, run_id: str) -> bool:
        with closing(LockSession(self._dagster_url)) as session:
            return session.is_held(run_lock(run_id))
