"""One tick of a sensor: what to request, and where the next goes on."""

import datetime as dt
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import takewhile

import dagster as dg

from lens_pipeline.catalog.rows import Position, Row, UnusableRow
from lens_pipeline.core.ids import key_problem
from lens_pipeline.core.locks import queue_id
from lens_pipeline.core.telemetry import span
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.backfill import (
    ADOPTION_AGE,
    ADOPTION_ROWS,
    adoption_advice,
    is_touched,
)
from lens_pipeline.derivatives.cursor import OVERLAP, Cursor
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.release import Release
from lens_pipeline.derivatives.round_robin import round_robin
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.engine.run_requests import (
    CHECK_PRIORITY,
    NEW_PRIORITY,
    added_batches,
    of_runs,
    run_request,
)
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.event_log.tags import ORIGIN_TAG

DISABLED = "LENS_ENABLED is false: nothing is started automatically."
# Least batches a tick: the next one is a second away.
_BATCHES_A_TICK = 5
# Ticks of batches that may wait in the run queue; other rows take turns.
_TICKS_AHEAD = 2
# Oldest and newest rows of a backlog that take turns; reading the ids takes 50 ms.
_LOOK_AHEAD, _NEWEST = 10_000, 1_000
# Most waiting rows read again; the backfill finds others.
_MOST_WAITING = 500
_ORIGIN = "sensor"


@dataclass(frozen=True, slots=True)
class _Page:
    """`new` moves the cursor; `again` waited or may have committed late; `ahead` has its turn."""

    new: list[tuple[Position | None, Row | UnusableRow]]
    again: list[Row | UnusableRow]
    ahead: list[Row | UnusableRow]

    def rows(self) -> list[Row | UnusableRow]:
        return [*self.again, *(row for _, row in self.new), *self.ahead]


def new_rows(
    context: dg.SensorEvaluationContext, pipeline: Pipeline, derivative: Derivative
) -> dg.SensorResult | dg.SkipReason:
    """Request runs for rows since the cursor whose derivative is missing."""
    if not pipeline.settings.enabled:
        return dg.SkipReason(DISABLED)
    if off := derivative.why_off(pipeline):
        return dg.SkipReason(off)
    began = dt.datetime.now(dt.UTC)
    now = pipeline.catalog.now()
    seen = Cursor.parse(context.cursor)
    position = _position(context, pipeline, derivative, seen, now)
    room = _room(pipeline, derivative)
    if room <= 0:
        return dg.SkipReason("Enough runs of this sensor wait in the queue.")
    limit = room * derivative.batch_size(pipeline.settings)
    known = set(context.instance.get_dynamic_partitions(derivative.partition_set))
    page = _page(pipeline, derivative, position, seen.waiting, limit, known)
    rows = list({row.id: row for row in usable(page.rows())}.values())
    missing = [
        status
        for status in assess(pipeline, derivative, rows)
        if status.state is State.NONE and not is_touched(status, now)
    ]
    free = round_robin([s for s in missing if not s.waits], lambda status: status.owner)
    wanted = free[: 2 * limit]
    later = [*(s for s in missing if s.waits), *free[2 * limit :]]
    waiting = tuple(status.id for status in later)[-_MOST_WAITING:]
    # A row stamped in the future must not hide earlier ones.
    passed = [(at, row) for at, row in page.new if at is not None and at.finished_at <= now]
    # Each is named once; the backfill counts them.
    for row in (row for _, row in passed if isinstance(row, UnusableRow)):
        context.log.warning("skipped row %r: %s", row.id, row.reason)
    cursor = Cursor(passed[-1][0] if passed else position, waiting).dump()
    if pipeline.settings.debug:
        context.log.info(
            "%s: %d new rows, %d looked at again, %d waiting, %d wanted",
            derivative.asset, len(page.new), len(page.again), len(waiting), len(wanted),
        )  # fmt: skip
    if not wanted:
        context.update_cursor(cursor or "")
        waits = "".join(f" {s.id}: {s.waits}." for s in missing[:5] if s.waits)
        return dg.SkipReason(f"No new {derivative.asset} is called for.{waits}")
    with span(f"sensor of {derivative.asset}", {"rows": len(wanted)}, since=began):
        return _result(context.instance, pipeline, derivative, wanted, cursor)


def _result(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    derivative: Derivative,
    wanted: list[DerivativeStatus],
    cursor: str | None,
) -> dg.SensorResult:
    """The keys are added here: if the daemon did, others could be added in between."""
    statuses = {status.id: status for status in wanted}
    size = derivative.batch_size(pipeline.settings)
    priority = NEW_PRIORITY if derivative in registry.DERIVATIVES else CHECK_PRIORITY
    return dg.SensorResult(
        run_requests=[
            run_request(derivative, batch, statuses, _ORIGIN, priority)
            for keys in of_runs(pipeline, derivative, list(statuses))
            for batch in added_batches(instance, derivative, keys, size)
        ],
        cursor=cursor,
    )


def _position(
    context: dg.SensorEvaluationContext,
    pipeline: Pipeline,
    derivative: Derivative,
    seen: Cursor,
    now: dt.datetime,
) -> Position | None:
    """None: at the first row. Old rows of a new site are left alone."""
    if seen.position is not None:
        # If the database's clock was set back, new rows are behind the cursor.
        return Position(now - OVERLAP, "") if seen.position.finished_at > now else seen.position
    old = pipeline.catalog.count_finished(derivative.kind, now - ADOPTION_AGE)
    if old <= ADOPTION_ROWS:
        return None
    if derivative in registry.DERIVATIVES:
        context.log.warning(adoption_advice(derivative, old))
    return Position(now - ADOPTION_AGE, "")


def _room(pipeline: Pipeline, derivative: Derivative) -> int:
    """Most batches that this tick may request."""
    queue = queue_id(derivative.queue, Release.of(pipeline.settings).id)
    a_tick = max(_BATCHES_A_TICK, pipeline.runs.slots().get(queue, 0))
    waiting = pipeline.runs.depth(derivative.job, ORIGIN_TAG, _ORIGIN)
    return min(a_tick, _TICKS_AHEAD * a_tick - waiting)


def _page(
    pipeline: Pipeline,
    derivative: Derivative,
    position: Position | None,
    waiting: Sequence[str],
    limit: int,
    known: AbstractSet[str],
) -> _Page:
    """`known`: the ids that have been requested.

    If more than `limit` rows are new, those not requested take turns by owner, and the cursor
    stops before the first that is not chosen. The very first row always is.
    """
    catalog, kind = pipeline.catalog, derivative.kind
    new = catalog.after(kind, position, limit)
    ahead: list[Row | UnusableRow] = []
    if len(new) >= limit:
        backlog = catalog.waiting_after(kind, position, _LOOK_AHEAD, _NEWEST)
        fresh = [
            (key, owner) for key, owner in backlog if key not in known and not key_problem("", key)
        ]
        chosen = {key for key, _ in round_robin(fresh, lambda entry: entry[1])[:limit]}
        done = known | chosen
        new = list(takewhile(lambda e: isinstance(e[1], UnusableRow) or e[1].id in done, new))
        found = catalog.finished(kind, chosen.difference(row.id for _, row in new))
        ahead = [found[key] for key, _ in backlog if key in found]
    again = list(catalog.finished(kind, waiting).values())
    if position is not None:
        since = position.earlier(OVERLAP)
        again += reversed(catalog.between(kind, since, position, limit))
    return _Page(new, again, ahead)
