"""What a generation takes in Dagster's database, how much of it stays, and what 30 days come to.

Two logs are filled with copies of real runs, of one file and of a full batch each: a site whose
photos come one by one has the former, a busy one the latter. Then everything is pruned that is old
enough. Sizes are those of the tables with their indexes and what is stored out of line.
"""

import datetime as dt
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import sqlalchemy as sa

from benchmarks.history import fill
from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack
from lens_pipeline.defs.retention import Pruned, prune
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.event_log.daily import DayLog
from lens_pipeline.monitoring.reports import collect

_PARTITIONS, _QUICK_PARTITIONS = 10_000, 1_000
_EDGE = 256
# The site that the total is given for.
_A_DAY = 50_000
_BATCHES = {"single": "1", "batch": "20"}
# Autovacuum starts at a fifth of dead rows: a table is so much larger than what is in it.
_SLACK = 1.2
_GROWING = (
    *("event_logs", "asset_event_tags", "runs", "run_tags"),
    *("asset_check_executions", "dynamic_partitions", "job_ticks"),
)
_TICK_SECONDS = 30.0


def run(quick: bool = False) -> dict[str, float]:
    """Bytes a generation: whole, without its events, and without its run; gigabytes of 30 days at
    50,000 a day, and of what is left for ever of each year after.
    """
    found: dict[str, float] = {}
    for name, batch in _BATCHES.items():
        variables = {"LENS_BATCH_SIZE": batch, "LENS_BACKFILL_CRON": "0 0 29 2 *"}
        with running_stack(variables) as stack:
            found |= _measure(stack, name, _QUICK_PARTITIONS if quick else _PARTITIONS)
    return found


def _measure(stack: RunningStack, name: str, partitions: int) -> dict[str, float]:
    (source,) = stack.store_files(jpegs(1, _EDGE, _EDGE))
    stack.warm_up([source])
    empty = _sizes(stack)
    ticks = _tick_bytes_a_day(stack)
    fill(stack, source, partitions)
    filled = _sizes(stack)
    started = time.monotonic()
    pruned = _prune_all(stack, runs=False)
    seconds = time.monotonic() - started
    without_events = _sizes(stack)
    started = time.monotonic()
    _prune_all(stack, runs=False)
    again = time.monotonic() - started
    _prune_all(stack, runs=True)
    left = _sizes(stack)
    young, middle, old = ((size - empty) / partitions for size in (filled, without_events, left))
    settings = stack.settings
    days = (settings.retain_events_days, settings.retain_runs_days - settings.retain_events_days)
    total = _A_DAY * (days[0] * young + days[1] * middle) * _SLACK + ticks
    return {
        f"retention_{name}_bytes_a_generation": young,
        f"retention_{name}_bytes_without_events": middle,
        f"retention_{name}_bytes_left": old,
        f"retention_{name}_gigabytes_30_days": total / 1e9,
        f"retention_{name}_gigabytes_a_year_after": old * _A_DAY * 365 * _SLACK / 1e9,
        f"retention_{name}_events_a_second": pruned.events / seconds,
        f"retention_{name}_seconds_with_nothing_to_delete": again,
        f"retention_{name}_tick_megabytes": ticks / 1e6,
        f"report_{name}_seconds_50k": _report_seconds(stack, partitions),
    }


def _prune_all(stack: RunningStack, *, runs: bool) -> Pruned:
    """Prune all of the past, which is over a day old; what it was copied from is not."""
    settings = stack.settings
    days = settings.retain_runs_days if runs else settings.retain_events_days
    if not runs:
        settings = settings.model_copy(update={"retain_runs_days": 3650})
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=days - 0.5)
    return prune(replace(stack.pipeline, settings=settings), later)


def _report_seconds(stack: RunningStack, partitions: int) -> float:
    """How long a day's files take to be read, for 50,000, as if all of the past were one day."""
    day = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=10)
    values = {"day": day, "count": partitions, "asset": json.dumps([PREVIEW.asset])}
    for engine, statement in ((stack.dagster, _ONE_DAY), (stack.application, _ONE_DAY_OF_ROWS)):
        with engine.connect() as connection:
            connection.execute(statement, values)
            connection.commit()
    started = time.monotonic()
    with closing(DayLog(stack.pipeline.endpoints.dagster_url)) as log:
        files = collect.read_files(stack.pipeline, log, day)
    seconds = time.monotonic() - started
    if len(files) != partitions:
        raise RuntimeError(f"the report found {len(files)} of {partitions} files")
    return seconds * _A_DAY / partitions


def _tick_bytes_a_day(stack: RunningStack) -> float:
    """Bytes of ticks that stay: each sensor's last day of ticks that did nothing."""
    with stack.dagster.connect() as connection:
        before = connection.execute(_TICKS).scalar_one()
        time.sleep(_TICK_SECONDS)
        ticks = connection.execute(_TICKS).scalar_one() - before
        size = connection.execute(_TICK_BYTES).scalar_one()
    return ticks / _TICK_SECONDS * 86_400 * size


def _sizes(stack: RunningStack) -> int:
    """Bytes of all growing tables, without the room of what was deleted from them."""
    with stack.dagster.connect() as connection:
        for table in _GROWING:
            connection.execute(sa.text(f"VACUUM (FULL, ANALYZE) {table}"))
        sizes: Mapping[str, int] = {
            table: connection.execute(_SIZE, {"table": table}).scalar_one()
            for table in _GROWING
            if table != "job_ticks"
        }
    return sum(sizes.values())


_SIZE = sa.text("SELECT pg_total_relation_size(:table)")
_TICKS = sa.text("SELECT coalesce(max(id), 0) FROM job_ticks")
_TICK_BYTES = sa.text(
    "SELECT pg_total_relation_size('job_ticks') / greatest(count(*), 1) FROM job_ticks"
)
_ONE_DAY = sa.text(
    """
    WITH past AS (
      SELECT id, row_number() OVER (ORDER BY id) AS number FROM event_logs
       WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = :asset
         AND partition LIKE 'past-%')
    UPDATE event_logs e
       SET "timestamp" = CAST(:day AS timestamp)
             + make_interval(secs => 3600 + 80000.0 * past.number / :count)
      FROM past WHERE e.id = past.id
    """
)
_ONE_DAY_OF_ROWS = sa.text(
    """
    UPDATE generations
       SET updated_at = (CAST(:day AS timestamp) AT TIME ZONE 'UTC')
             + make_interval(secs => 3000 + 80000.0 * CAST(substr(id, 6) AS int) / :count)
     WHERE id LIKE 'past-%'
    """
)
