"""Ticks of a sensor, without the daemon."""

from collections.abc import Callable

import dagster as dg

from lens_pipeline.definitions import defs
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_queue import create_run, enqueue
from lens_pipeline_tests.support.site import Site


class Ticker:
    """Ticks `new_photos` as the daemon does: what it asks for is done, its cursor is kept.

    `queued`: the runs are put into the queue, too.
    """

    def __init__(self, site: Site, *, queued: bool = False) -> None:
        self._site = site
        self._queued = queued
        self.cursor: str | None = None
        self.requested: list[list[str]] = []
        self._run_keys: set[str | None] = set()

    def tick(self, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
        """The ids that this tick asked for; `meanwhile` comes before the daemon's part."""
        instance = self._site.dagster
        # Left to the garbage collector, its resources would hide our instance for a while.
        with dg.build_sensor_context(
            instance=instance, cursor=self.cursor, resources={"lens": LensResource()}
        ) as context:
            result = derivative_sensor(PREVIEW)(context)
        if isinstance(result, dg.SkipReason):
            self.cursor = context.cursor
            return []
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        meanwhile()
        job = defs().get_repository_def().get_job("previews")
        order = list(instance.get_dynamic_partitions("photos"))
        asked = []
        for request in result.run_requests or []:
            if request.run_key in self._run_keys:
                continue
            self._run_keys.add(request.run_key)
            run = create_run(instance, job, request.tags)
            if self._queued:
                enqueue(instance, run)
            first = order.index(request.tags["dagster/asset_partition_range_start"])
            last = order.index(request.tags["dagster/asset_partition_range_end"])
            self.requested.append(order[first : last + 1])
            asked += self.requested[-1]
        return asked
