"""What a sensor does with rows that are new."""

import datetime as dt
import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import takewhile

import dagster as dg

from lens_pipeline.catalog.rows import Position, Row, UnusableRow
from lens_pipeline.core.ids import key_problem
from lens_pipeline.core.locks import queue_id
from lens_pipeline.core.telemetry import span
from lens_pipeline.derivatives.backfill import ADOPTION_AGE, ADOPTION_ROWS, adoption_advice
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import (
    DERIVATIVES,
    Derivative,
    queue_of,
)
from lens_pipeline.derivatives.release import Release
from lens_pipeline.derivatives.round_robin import in_turns
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.engine.run_requests import NEW_PRIORITY, batches, run_request
from lens_pipeline.event_log.history import State
from lens_pipeline.event_log.tags import ORIGIN_TAG

DISABLED = "LENS_ENABLED is false: nothing is started automatically."
# Batches a tick, at the least: the next tick is a second away.
_BATCHES_A_TICK = 5
# So many batches of a sensor's may wait in the run queue for each that a tick may ask for. The rows
# of a backlog wait in their table, where turns are taken among all of them.
_TICKS_AHEAD = 2
# Of a backlog, so many of the oldest rows and of the newest take turns. Reading their ids takes
# 50 ms.
_LOOK_AHEAD, _NEWEST = 10_000, 1_000
# Rows may commit later than rows with a younger `updated_at`; looked at again for so long.
_OVERLAP = dt.timedelta(seconds=60)
# Rows that wait for something are looked at in every tick; beyond so many the backfill finds them.
_MOST_WAITING = 500
_ORIGIN = "sensor"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row that the sensor has seen, in the catalog's order, and those that wait."""

    position: Position | None = None
    waiting: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        if not text:
            return cls()
        finished_at, row_id, *waiting = json.loads(text)
        if finished_at is None:
            return cls(waiting=tuple(waiting))
        return cls(Position(dt.datetime.fromisoformat(finished_at), row_id), tuple(waiting))

    def dump(self) -> str | None:
        if self.position is None:
            return json.dumps([None, None, *self.waiting]) if self.waiting else None
        place = [self.position.finished_at.isoformat(), self.position.id]
        return json.dumps([*place, *self.waiting])


def new_rows(
    context: dg.SensorEvaluationContext,
    pipeline: Pipeline,
    derivative: Derivative,
    priority: int = NEW_PRIORITY,
) -> dg.SensorResult | dg.SkipReason:
    if not pipeline.settings.enabled:
        return dg.SkipReason(DISABLED)
    began = dt.datetime.now(dt.UTC)
    now = pipeline.catalog.now()
    seen = Cursor.parse(context.cursor)
    position = seen.position
    if position is None:
        position = _first_position(context, pipeline, derivative, now)
    elif position.finished_at > now:
        # The database's clock was set back: rows that finish now are behind the cursor.
        position = Position(now - _OVERLAP, "")

    room = _room(pipeline, derivative)
    if room <= 0:
        return dg.SkipReason("Enough runs of this sensor wait in the queue.")
    batch_size = derivative.batch_size(pipeline.settings)
    limit = room * batch_size
    order = derivative.partitions.get_partition_keys(dynamic_partitions_store=context.instance)
    known = set(order)
    page, ahead = _next_in_turn(pipeline, derivative, position, limit, known)
    late = (
        pipeline.catalog.between(derivative.kind, position.finished_at - _OVERLAP, position, limit)
        if position
        else []
    )
    waited = pipeline.catalog.finished(derivative.kind, seen.waiting)
    rows = _usable(context, [*waited.values(), *reversed(late), *(row for _, row in page), *ahead])
    missing = [
        assessed
        for assessed in assess(pipeline, derivative, rows)
        if assessed.standing.state is State.NONE
    ]
    free = [assessed for assessed in missing if not assessed.waits]
    free = in_turns(free, lambda assessed: derivative.owner(assessed.row))
    wanted = free[: 2 * limit]
    later = [*(a for a in missing if a.waits), *free[2 * limit :]]
    waiting = tuple(assessed.row.id for assessed in later)[-_MOST_WAITING:]
    # A row stamped in the future must not hide those that finish before then.
    places = [place for place, _ in page if place is not None and place.finished_at <= now]
    cursor = Cursor(places[-1] if places else position, waiting).dump()
    if pipeline.settings.debug:
        context.log.info(
            "%s: %d new rows, %d looked at again, %d waiting, %d wanted",
            derivative.asset, len(page), len(late), len(waiting), len(wanted),
        )  # fmt: skip
    if not wanted:
        context.update_cursor(cursor or "")
        waits = "".join(f" {a.row.id}: {a.waits}." for a in missing[:5] if a.waits)
        return dg.SkipReason(f"No new {derivative.asset} is called for.{waits}")

    keys = [assessed.row.id for assessed in wanted]
    revisions = {assessed.row.id: assessed.revision for assessed in wanted}
    owners = {assessed.row.id: derivative.owner(assessed.row) for assessed in wanted}
    added = [key for key in keys if key not in known]
    with span(f"sensor of {derivative.asset}", {"rows": len(keys)}, since=began):
        requests = [
            run_request(derivative, batch, revisions, _ORIGIN, priority, owners)
            for batch in batches(keys, order, batch_size)
        ]
    return dg.SensorResult(
        dynamic_partitions_requests=[derivative.partitions.build_add_request(added)]
        if added
        else [],
        run_requests=requests,
        cursor=cursor,
    )


def _room(pipeline: Pipeline, derivative: Derivative) -> int:
    """How many batches this tick may ask for."""
    queue = queue_id(queue_of([derivative.asset]), Release.of(pipeline.settings).id)
    a_tick = max(_BATCHES_A_TICK, pipeline.runs.slots().get(queue, 0))
    waiting = pipeline.runs.depth(derivative.job, ORIGIN_TAG, _ORIGIN)
    return min(a_tick, _TICKS_AHEAD * a_tick - waiting)


def _next_in_turn(
    pipeline: Pipeline,
    derivative: Derivative,
    position: Position | None,
    limit: int,
    known: AbstractSet[str],
) -> tuple[list[tuple[Position | None, Row | UnusableRow]], list[Row | UnusableRow]]:
    """The rows up to which the cursor can move, and others whose turn it is.

    Usually the next `limit` rows and no others. If there are more, `limit` of those that were never
    asked for are chosen by turns of their owners, and the cursor moves as far as nothing is left.
    The first row is always among them. `known`: the ids that have been asked for.
    """
    page = pipeline.catalog.after(derivative.kind, position, limit)
    if len(page) < limit:
        return page, []
    backlog = pipeline.catalog.waiting_after(derivative.kind, position, _LOOK_AHEAD, _NEWEST)
    fresh = [entry for entry in backlog if entry[0] not in known and not key_problem("", entry[0])]
    chosen = {row_id for row_id, _ in in_turns(fresh, lambda entry: entry[1])[:limit]}
    passed = list(takewhile(lambda entry: _is_settled(entry[1], known | chosen), page))
    ahead = chosen.difference(row.id for _, row in passed)
    found = pipeline.catalog.finished(derivative.kind, ahead)
    return passed, [found[row_id] for row_id, _ in backlog if row_id in found]


def _is_settled(row: Row | UnusableRow, settled: AbstractSet[str]) -> bool:
    return isinstance(row, UnusableRow) or row.id in settled


def _first_position(
    context: dg.SensorEvaluationContext,
    pipeline: Pipeline,
    derivative: Derivative,
    now: dt.datetime,
) -> Position | None:
    """Where to begin on a library that is there already: its old rows are for people to start."""
    old = pipeline.catalog.count_finished(derivative.kind, now - ADOPTION_AGE)
    if old <= ADOPTION_ROWS:
        return None
    if derivative in DERIVATIVES:
        context.log.warning(adoption_advice(derivative, old))
    return Position(now - ADOPTION_AGE, "")


def _usable(context: dg.SensorEvaluationContext, rows: list[Row | UnusableRow]) -> list[Row]:
    """Each usable row once."""
    for row in rows:
        if isinstance(row, UnusableRow):
            context.log.warning("skipped row %r: %s", row.id, row.reason)
    return list({row.id: row for row in usable(rows)}.values())
