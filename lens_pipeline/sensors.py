"""Sensors: new work within seconds, and what to do when a row is gone."""

import datetime as dt
import json
from dataclasses import dataclass

import dagster as dg

from lens_pipeline import jobs
from lens_pipeline.catalog import Generation, InvalidGeneration, Position
from lens_pipeline.derivatives import DERIVATIVES, POSTER, PREVIEW, Derivative
from lens_pipeline.gaps import ADOPTION_AGE, ADOPTION_ROWS, adoption_advice, assess
from lens_pipeline.pipeline import LensResource, Pipeline
from lens_pipeline.removal import remove_vanished
from lens_pipeline.runs import batches, run_request
from lens_pipeline.status import State

# Batches a tick: the next tick is a second away.
_BATCHES_A_TICK = 5
# Rows may commit later than rows with a younger `updated_at`; looked at again for so long.
_OVERLAP = dt.timedelta(seconds=60)
_DISABLED = "LENS_ENABLED is false: nothing is started automatically."


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row that the sensor has seen, in the catalog's order."""

    position: Position | None = None

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        if not text:
            return cls()
        finished_at, row_id = json.loads(text)
        return cls(Position(dt.datetime.fromisoformat(finished_at), row_id))

    def dump(self) -> str | None:
        if self.position is None:
            return None
        return json.dumps([self.position.finished_at.isoformat(), self.position.id])


def _new_rows(
    context: dg.SensorEvaluationContext, pipeline: Pipeline, derivative: Derivative
) -> dg.SensorResult | dg.SkipReason:
    if not pipeline.settings.enabled:
        return dg.SkipReason(_DISABLED)
    now = pipeline.catalog.now()
    position = Cursor.parse(context.cursor).position
    if position is None:
        position = _first_position(context, pipeline, derivative, now)

    limit = _BATCHES_A_TICK * pipeline.settings.batch_size
    page = pipeline.catalog.after(derivative.kind, position, limit)
    late = (
        pipeline.catalog.between(derivative.kind, position.finished_at - _OVERLAP, position, limit)
        if position
        else []
    )
    rows = _usable(context, [*reversed(late), *(row for _, row in page)])
    wanted = [
        assessed
        for assessed in assess(pipeline, derivative, rows)
        if assessed.standing.state is State.NONE
    ]
    # A row stamped in the future must not hide those that finish before then.
    places = [place for place, _ in page if place is not None and place.finished_at <= now]
    cursor = Cursor(places[-1] if places else position).dump()
    if pipeline.settings.debug:
        context.log.info(
            "%s: %d new rows, %d looked at again, %d wanted",
            derivative.asset, len(page), len(late), len(wanted),
        )  # fmt: skip
    if not wanted:
        context.update_cursor(cursor or "")
        return dg.SkipReason(f"No new {derivative.kind} has finished.")

    keys = [assessed.generation.id for assessed in wanted]
    revisions = {assessed.generation.id: assessed.revision for assessed in wanted}
    order = derivative.partitions.get_partition_keys(dynamic_partitions_store=context.instance)
    known = set(order)
    added = [key for key in keys if key not in known]
    return dg.SensorResult(
        dynamic_partitions_requests=[derivative.partitions.build_add_request(added)]
        if added
        else [],
        run_requests=[
            run_request(derivative, batch, revisions, origin="sensor", priority=0)
            for batch in batches(keys, order, pipeline.settings.batch_size)
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
    context.log.warning(adoption_advice(derivative, old))
    return Position(now - ADOPTION_AGE, "")


def _usable(
    context: dg.SensorEvaluationContext, rows: list[Generation | InvalidGeneration]
) -> list[Generation]:
    for row in rows:
        if isinstance(row, InvalidGeneration):
            context.log.warning("skipped row %r: %s", row.id, row.reason)
    return [row for row in rows if isinstance(row, Generation)]


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
