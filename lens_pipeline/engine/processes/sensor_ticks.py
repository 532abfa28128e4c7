"""Which sensors the daemon ticks: those of new rows only where a tick may find something."""

import time
from dataclasses import dataclass

from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData
from dagster._daemon.sensor import get_elapsed, is_under_min_interval
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.generations import Layout
from lens_pipeline.catalog.rows import Digest
from lens_pipeline.core import postgres
from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.cursor import OVERLAP, Cursor
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.event_log.queue import RunQueueLog

# Between two ticks of a sensor at rest: what a person deletes or cancels changes no row, and a new
# row may have an old time.
_MOST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a tick would read, as of some moment before the next one."""

    last_tick_at: float | None
    digest: Digest
    runs: tuple[str, ...]
    """The sensor's runs that have not ended: one that ends may have made nothing."""


class TickPolicy:
    """A tick takes 25 transactions: three a second were most of what a stack at rest did.

    It is left out if the rows of the sensor's overlap and its runs are as they were before the last
    tick, that tick did not fail, and no row is later than its cursor or waits. That is looked at no
    more often than the sensor ticks: the daemon asks each second.
    """

    def __init__(self, endpoints: Endpoints, layout: Layout | None = None) -> None:
        self._catalog = Catalog(endpoints.database_url, layout)
        self._runs = RunQueueLog(endpoints.dagster_url)
        self._marks: dict[str, _Mark] = {}
        self._next_looks: dict[str, float] = {}  # monotonic times

    def is_not_due(self, state: InstigatorState, remote_sensor: RemoteSensor) -> bool:
        """In place of Dagster's `is_under_min_interval`, which is called twice for a tick."""
        if is_under_min_interval(state, remote_sensor):
            return True
        derivative = registry.by_sensor(remote_sensor.name)
        data = state.instigator_data
        if derivative is None or not isinstance(data, SensorInstigatorData):
            return False
        if data.last_tick_success_timestamp is None or (get_elapsed(state) or 0) >= _MOST_SECONDS:
            return False
        now = time.monotonic()
        if now < self._next_looks.get(remote_sensor.name, now):
            return True
        try:
            is_idle = self._is_idle(remote_sensor.name, derivative, data)
        except (CatalogError, SQLAlchemyError, TypeError, ValueError):
            # The tick fails too, and its error is shown.
            return False
        if is_idle:
            self._next_looks[remote_sensor.name] = now + (remote_sensor.min_interval_seconds or 0)
        return is_idle

    def _is_idle(self, sensor: str, derivative: Derivative, data: SensorInstigatorData) -> bool:
        if self._catalog.lack_of(derivative.kind):
            return True
        known = self._marks.get(sensor)
        last_tick_at = data.last_tick_start_timestamp
        if known is not None and known.last_tick_at == last_tick_at:
            return False  # the tick that it allowed is still to begin
        cursor = Cursor.parse(data.cursor)
        if cursor.waiting:
            return False
        with postgres.deadline(postgres.STATEMENT_SECONDS):
            mark = _Mark(
                last_tick_at,
                self._digest(derivative, cursor),
                tuple(self._runs.unfinished(derivative.job)),
            )
        is_same = known is not None and (known.digest, known.runs) == (mark.digest, mark.runs)
        if is_same and not mark.digest.has_later:
            return True
        self._marks[sensor] = mark
        return False

    def _digest(self, derivative: Derivative, cursor: Cursor) -> Digest:
        position = cursor.position
        since = position.earlier(OVERLAP) if position else None
        return self._catalog.digest(derivative.kind, position, since)
