"""Sensors: new work within seconds, and what to do when a row is gone."""

import datetime as dt
import json
from dataclasses import dataclass

import dagster as dg

from lens_pipeline import jobs
from lens_pipeline.catalog import Position, Row, UnusableRow
from lens_pipeline.derivatives import (
    CHECKED_SHOT,
    DERIVATIVES,
    MASTER,
    POSTER,
    PREVIEW,
    SCALED,
    Derivative,
)
from lens_pipeline.gaps import ADOPTION_AGE, ADOPTION_ROWS, adoption_advice, assess, usable
from lens_pipeline.pipeline import LensResource, Pipeline
from lens_pipeline.removal import remove_vanished
from lens_pipeline.runs import batches, run_request
from lens_pipeline.status import State

# Batches a tick: the next tick is a second away.
_BATCHES_A_TICK = 5
# Rows may commit later than rows with a younger `updated_at`; looked at again for so long.
_OVERLAP = dt.timedelta(seconds=60)
# Rows that wait for something are looked at in every tick; beyond so many the backfill finds them.
_MOST_WAITING = 500
# A master that somebody waits for goes before.
_CHECK_PRIORITY = -2
_DISABLED = "LENS_ENABLED is false: nothing is started automatically."


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


def _new_rows(
    context: dg.SensorEvaluationContext,
    pipeline: Pipeline,
    derivative: Derivative,
    priority: int = 0,
) -> dg.SensorResult | dg.SkipReason:
    if not pipeline.settings.enabled:
        return dg.SkipReason(_DISABLED)
    now = pipeline.catalog.now()
    seen = Cursor.parse(context.cursor)
    position = seen.position
    if position is None:
        position = _first_position(context, pipeline, derivative, now)

    batch_size = derivative.batch_size(pipeline.settings)
    limit = _BATCHES_A_TICK * batch_size
    page = pipeline.catalog.after(derivative.kind, position, limit)
    late = (
        pipeline.catalog.between(derivative.kind, position.finished_at - _OVERLAP, position, limit)
        if position
        else []
    )
    waited = pipeline.catalog.finished(derivative.kind, seen.waiting)
    rows = _usable(context, [*waited.values(), *reversed(late), *(row for _, row in page)])
    missing = [
        assessed
        for assessed in assess(pipeline, derivative, rows)
        if assessed.standing.state is State.NONE
    ]
    free = [assessed for assessed in missing if not assessed.waits]
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
    order = derivative.partitions.get_partition_keys(dynamic_partitions_store=context.instance)
    known = set(order)
    added = [key for key in keys if key not in known]
    return dg.SensorResult(
        dynamic_partitions_requests=[derivative.partitions.build_add_request(added)]
        if added
        else [],
        run_requests=[
            run_request(derivative, batch, revisions, origin="sensor", priority=priority)
            for batch in batches(keys, order, batch_size)
        ],
        cursor=cursor,
    )


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


@dg.sensor(
    job=jobs.previews,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_photos(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests previews of photos that have finished since the last tick."""
    return _new_rows(context, lens.pipeline(), PREVIEW)


@dg.sensor(
    job=jobs.posters,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_videos(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests posters of videos that have finished since the last tick."""
    return _new_rows(context, lens.pipeline(), POSTER)


@dg.sensor(
    job=jobs.masters,
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_masters(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests masters that were added or changed since the last tick and whose shots are there."""
    return _new_rows(context, lens.pipeline(), MASTER)


@dg.sensor(
    job=jobs.shot_checks,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_shots(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Has assets checked that were added to projects, so that masters of them take seconds."""
    return _new_rows(context, lens.pipeline(), CHECKED_SHOT, priority=_CHECK_PRIORITY)


@dg.sensor(
    job=jobs.scaled,
    minimum_interval_seconds=3,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_scaled(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests renditions that were added since the last tick and whose master is ready."""
    return _new_rows(context, lens.pipeline(), SCALED)


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def removed_generations(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Deletes the derivatives and partitions of rows that are gone."""
    pipeline = lens.pipeline()
    if not pipeline.settings.enabled:
        return dg.SkipReason(_DISABLED)
    cursors: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    requests, notes = [], []
    for derivative in DERIVATIVES:
        walked = remove_vanished(
            pipeline, context.instance, derivative, cursors.get(derivative.asset, "")
        )
        cursors[derivative.asset] = walked.cursor
        notes.append(f"{derivative.asset}: {walked.note}")
        if walked.refused:
            context.log.warning(notes[-1])
        if walked.removed:
            requests.append(derivative.partitions.build_delete_request(walked.removed))
    if not requests:
        context.update_cursor(json.dumps(cursors))
        return dg.SkipReason("; ".join(notes))
    context.log.info("; ".join(notes))
    return dg.SensorResult(dynamic_partitions_requests=requests, cursor=json.dumps(cursors))
