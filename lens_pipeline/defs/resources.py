"""The resource of assets, sensors and schedules."""

import dagster as dg
from pydantic import Field

from lens_pipeline.core.endpoints import without_password
from lens_pipeline.core.locks import LockSession, run_lock
from lens_pipeline.derivatives.pipeline import Pipeline, current
from lens_pipeline.event_log.tags import TASK_TAG
from lens_pipeline.settings import Settings

_held_to_the_end: list[LockSession] = []


class LensResource(dg.ConfigurableResource):
    """The databases, the object store and the event log, by the settings of each process.

    The fields are for people, and changing them in the launchpad has no effect.
    """

    database: str = Field(default="", description="The application's tables (LENS_DATABASE_URL).")
    broker: str = Field(default="", description="Hands runs to workers (LENS_BROKER_URL).")
    store: str = Field(default="", description="Where files go (LENS_STORE_URL).")
    preview_edge: int = Field(default=0, description="Longest edge in pixels (LENS_PREVIEW_EDGE).")
    preview_quality: int = Field(default=0, description="Of WebP (LENS_PREVIEW_QUALITY).")
    master_loudness: str = Field(default="", description="LUFS (LENS_MASTER_LOUDNESS).")
    batch_size: int = Field(default=0, description="Most partitions of a run (LENS_BATCH_SIZE).")

    @classmethod
    def of(cls, settings: Settings) -> "LensResource":
        """Without passwords and keys: every user of the Dagster UI sees it."""
        embedded = f"embedded, in {settings.resolved_home}"
        return cls(
            database=without_password(settings.database_url) if settings.database_url else embedded,
            broker=without_password(settings.broker_url) if settings.broker_url else embedded,
            store=without_password(settings.resolved_store_url),
            preview_edge=settings.preview_edge,
            preview_quality=settings.preview_quality,
            master_loudness=str(settings.master_loudness),
            batch_size=settings.batch_size,
        )

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Take the lock by which a run is known to be alive, unless a worker holds it.

        Dagster's own commands execute runs themselves, one in a process.
        """
        run = context.run
        if run is None or TASK_TAG in run.tags:
            return
        locks = LockSession(self.pipeline().endpoints.dagster_url)
        if locks.try_all([run_lock(run.run_id)]):
            _held_to_the_end.append(locks)
        else:
            locks.close()

    def pipeline(self) -> Pipeline:
        return current()
