"""Sensors: new work within seconds, and what to do when a row is gone."""

import json

import dagster as dg

from lens_pipeline.defs import jobs
from lens_pipeline.defs.new_rows import DISABLED, new_rows
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import (
    CHECKED_SHOT,
    DERIVATIVES,
    MASTER,
    POSTER,
    PREVIEW,
    SCALED,
)
from lens_pipeline.derivatives.removal import remove_vanished
from lens_pipeline.engine.run_requests import CHECK_PRIORITY


@dg.sensor(
    job=jobs.previews,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_photos(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests previews of photos that have finished since the last tick."""
    return new_rows(context, lens.pipeline(), PREVIEW)


@dg.sensor(
    job=jobs.posters,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_videos(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests posters of videos that have finished since the last tick."""
    return new_rows(context, lens.pipeline(), POSTER)


@dg.sensor(
    job=jobs.masters,
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_masters(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests masters that were added or changed since the last tick and whose shots are there."""
    return new_rows(context, lens.pipeline(), MASTER)


@dg.sensor(
    job=jobs.shot_checks,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_shots(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Has assets checked that were added to projects, so that masters of them take seconds."""
    return new_rows(context, lens.pipeline(), CHECKED_SHOT, priority=CHECK_PRIORITY)


@dg.sensor(
    job=jobs.scaled,
    minimum_interval_seconds=3,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def new_scaled(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests renditions that were added since the last tick and whose master is ready."""
    return new_rows(context, lens.pipeline(), SCALED)


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def removed_generations(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    """Deletes the derivatives and partitions of rows that are gone."""
    pipeline = lens.pipeline()
    if not pipeline.settings.enabled:
        return dg.SkipReason(DISABLED)
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
