"""Whether the pipeline stays as fast when a library grows from 1,000 to 100,000 photos.

Two stacks, one with a short past and one with a long one, take turns; the other is paused
meanwhile. A sensor tick is measured in the daemon, from its beginning to its end as Dagster records
them: reading the rows, comparing them with the event log, and for a tick that finds 100 new rows
creating and queueing their runs, too.
"""

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import sqlalchemy as sa

from benchmarks.history import fill
from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.throughput import time_pipeline
from lens_pipeline.derivatives.backfill import survey
from lens_pipeline.derivatives.registry import PREVIEW

_SIZES, _QUICK_SIZES = (1_000, 100_000), (1_000, 5_000)
_PHOTOS, _QUICK_PHOTOS = 200, 100
_ROUNDS, _QUICK_ROUNDS = 3, 1
_IDLE_SECONDS, _QUICK_IDLE_SECONDS = 12.0, 6.0
# After a pause; every daemon takes a turn.
_SETTLE_SECONDS = 3.0
# The most rows that one tick takes.
_TICK_ROWS = 100
_EDGE = 1024
# The reconciling backfill would disturb some rounds and not others: it is measured by itself.
_SETTINGS = {"LENS_BACKFILL_CRON": "0 0 29 2 *"}


@dataclass(slots=True)
class _Measured:
    """Seconds of what one stack did."""

    stack: RunningStack
    empty_ticks: list[float] = field(default_factory=list)
    full_ticks: list[float] = field(default_factory=list)
    pipeline: list[float] = field(default_factory=list)
    surveys: list[float] = field(default_factory=list)


def run(quick: bool = False) -> dict[str, float]:
    """`tick_growth_100k` is the worse of an empty tick's and one of 100 rows: 2 is twice the time.

    `throughput_growth_100k`: 0.7 means that 70 photos are made while the small one makes 100.
    """
    with ExitStack() as stacks:
        small, large = (
            _Measured(stacks.enter_context(running_stack(_SETTINGS)))
            for _ in (_QUICK_SIZES if quick else _SIZES)
        )
        sources = _prepare(small, large, _QUICK_SIZES if quick else _SIZES)
        for number in range(_QUICK_ROUNDS if quick else _ROUNDS):
            for measured, other in ((small, large), (large, small)):
                with other.stack.paused():
                    _measure(measured, number, sources, quick)
    median = statistics.median
    growth_empty = median(large.empty_ticks) / median(small.empty_ticks)
    growth_full = median(large.full_ticks) / median(small.full_ticks)
    return {
        "tick_growth_100k": max(growth_empty, growth_full),
        "tick_growth_empty_100k": growth_empty,
        "tick_growth_100_rows_100k": growth_full,
        "tick_empty_seconds_1k": median(small.empty_ticks),
        "tick_empty_seconds_100k": median(large.empty_ticks),
        "tick_100_rows_seconds_1k": median(small.full_ticks),
        "tick_100_rows_seconds_100k": median(large.full_ticks),
        "throughput_growth_100k": median(small.pipeline) / median(large.pipeline),
        "backfill_survey_seconds_1k": median(small.surveys),
        "backfill_survey_seconds_100k": median(large.surveys),
    }


def _prepare(small: _Measured, large: _Measured, sizes: Sequence[int]) -> list[str]:
    files = jpegs(20, _EDGE, _EDGE)
    sources: list[str] = []
    for measured, other, size in ((small, large, sizes[0]), (large, small, sizes[1])):
        with other.stack.paused():
            sources = measured.stack.store_files(files)
            measured.stack.warm_up(sources)
            fill(measured.stack, sources[0], size)
    return sources


def _measure(measured: _Measured, number: int, sources: Sequence[str], quick: bool) -> None:
    stack = measured.stack
    time.sleep(_SETTLE_SECONDS)
    before = _last_tick(stack)
    time.sleep(_QUICK_IDLE_SECONDS if quick else _IDLE_SECONDS)
    ticks = _ticks(stack, before)
    measured.empty_ticks += [seconds for runs, seconds in ticks if runs == 0]

    photos = _QUICK_PHOTOS if quick else _PHOTOS
    wanted = [sources[index % len(sources)] for index in range(photos)]
    before = _last_tick(stack)
    measured.pipeline.append(time_pipeline(stack, f"row-{number}", wanted))
    full = _TICK_ROWS // stack.settings.batch_size
    measured.full_ticks += [seconds for runs, seconds in _ticks(stack, before) if runs >= full]

    started = time.perf_counter()
    survey(stack.pipeline, PREVIEW, bulk=False, limit=None)
    measured.surveys.append(time.perf_counter() - started)


def _last_tick(stack: RunningStack) -> int:
    with stack.dagster.connect() as connection:
        return connection.execute(_LAST).scalar_one()


def _ticks(stack: RunningStack, after: int) -> list[tuple[int, float]]:
    """Ended ticks of the sensor, as Dagster records them: runs requested, and seconds."""
    with stack.dagster.connect() as connection:
        bodies = connection.execute(_TICKS, {"after": after}).scalars().all()
    return [
        (len(tick.get("run_ids") or ()), tick["end_timestamp"] - tick["timestamp"])
        for tick in map(json.loads, bodies)
        # In the storage an instigator is still a job.
        if tick["job_name"] == "new_photos" and tick.get("end_timestamp")
    ]


_LAST = sa.text("SELECT coalesce(max(id), 0) FROM job_ticks")
_TICKS = sa.text("SELECT tick_body FROM job_ticks WHERE id > :after AND type = 'SENSOR'")
