"""Which ticks of a sensor the daemon leaves out."""

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.scheduler.instigation import SensorInstigatorData

from lens_pipeline.catalog.rows import Position
from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.derivatives.cursor import Cursor
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.processes.sensor_ticks import TickPolicy
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.ticker import Ticker

pytestmark = pytest.mark.slow


@dataclass
class Daemon:
    """Ticks as Dagster's daemon does: it asks twice, and notes when a tick began."""

    site: Site
    policy: TickPolicy
    ticker: Ticker
    began_at: float | None = None
    is_failed: bool = False
    sensor: str = str(PREVIEW.sensor)
    interval: float = 0

    def is_due(self) -> bool:
        data = SensorInstigatorData(
            cursor=self.ticker.cursor,
            last_tick_start_timestamp=self.began_at,
            last_tick_success_timestamp=None if self.is_failed else time.time(),
            sensor_type=SensorType.STANDARD,
        )
        state: Any = SimpleNamespace(instigator_data=data)
        sensor: Any = SimpleNamespace(name=self.sensor, min_interval_seconds=self.interval)
        return not self.policy.is_not_due(state, sensor)

    def loop(self) -> list[str] | None:
        """What a tick asked for; None: there was none."""
        if not self.is_due():
            return None
        assert self.is_due()
        self.began_at = time.time()
        return self.ticker.tick()


@pytest.fixture
def daemon(site: Site) -> Daemon:
    return Daemon(site, TickPolicy(site.pipeline.endpoints), Ticker(site))


def test_ticks_are_left_out_at_rest_and_none_that_finds_something(
    daemon: Daemon, photo: Callable[[str], str]
) -> None:
    """A stack that rests at the price of a busy one, or a photo that waits for a minute."""
    site = daemon.site
    assert [daemon.loop(), daemon.loop()] == [[], None]
    site.add("a", photo("a"))
    assert daemon.loop() == ["a"]
    assert daemon.loop() == []  # for its run, which has come
    assert daemon.loop() is None
    site.add_many(["b"], photo, age="30 s")  # commits late
    assert daemon.loop() == ["b"]
    site.sql("UPDATE generations SET asset_url = 'b.jpg', updated_at = now() WHERE id = 'a'")
    assert daemon.loop() is not None


def test_a_row_with_an_old_time_waits_for_the_minute(
    daemon: Daemon, photo: Callable[[str], str]
) -> None:
    """All photos since the last video, read each second for another one."""
    assert [daemon.loop(), daemon.loop()] == [[], None]
    daemon.site.add_many(["old"], photo, age="2 h")
    assert daemon.loop() is None
    daemon.began_at = time.time() - 61
    assert daemon.loop() == ["old"]


def test_a_run_that_made_nothing_is_followed_by_a_tick(
    daemon: Daemon, photo: Callable[[str], str]
) -> None:
    """A photo whose run was lost, and that only the backfill finds."""
    site = daemon.site
    site.add("a", photo("a"))
    while daemon.loop() is not None:
        pass
    (run,) = site.dagster.get_runs(dg.RunsFilter(job_name=PREVIEW.job))
    site.dagster.report_run_failed(run)
    assert daemon.loop() is not None


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(None, ("waits",)),
        Cursor(Position(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), "future")),
    ],
)
def test_what_waits_and_a_clock_set_back_need_every_tick(daemon: Daemon, cursor: Cursor) -> None:
    assert [daemon.loop(), daemon.loop()] == [[], None]
    daemon.ticker.cursor = cursor.dump()
    for _ in range(3):
        assert daemon.is_due()
        daemon.began_at = time.time()


def test_a_minute_or_a_failure_later_a_sensor_is_ticked_anyway(daemon: Daemon) -> None:
    assert [daemon.loop(), daemon.loop()] == [[], None]
    daemon.is_failed = True
    assert daemon.is_due()
    daemon.is_failed = False
    daemon.began_at = time.time() - 61
    assert daemon.is_due()
    daemon.sensor = "removed_generations"
    assert daemon.is_due()


def test_a_sensor_at_rest_is_looked_at_as_often_as_it_ticks(
    daemon: Daemon, photo: Callable[[str], str]
) -> None:
    """Most of what a stack at rest asks of its database."""
    assert [daemon.loop(), daemon.loop()] == [[], None]
    daemon.interval = 30
    daemon.began_at = time.time() - 31
    assert daemon.loop() is None
    daemon.site.add("a", photo("a"))
    assert daemon.loop() is None
    daemon.began_at = time.time() - 61
    assert daemon.loop() == ["a"]


def test_an_error_is_left_to_the_tick(daemon: Daemon) -> None:
    """A sensor that rests while its database is away, and shows nothing of it."""
    daemon.loop()
    unreachable = "postgresql://lens@127.0.0.1:1/lens"
    daemon.policy = TickPolicy(Endpoints(unreachable, unreachable, "", ""))
    assert daemon.loop() == []
    daemon.ticker.cursor = "5"
    assert daemon.is_due()
