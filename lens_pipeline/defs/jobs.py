"""The jobs that sensors, the backfill and people start."""

import datetime as dt

import dagster as dg

from lens_pipeline.defs.assets.daily_report import NAME as REPORT
from lens_pipeline.defs.assets.shot_cache import trim
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.retention import prune
from lens_pipeline.derivatives.registry import (
    CHECKED_SHOT,
    DERIVATIVES,
    MASTER,
    MASTER_POSTER,
    MASTERS,
    POSTER,
    PREVIEW,
    QUEUE_TAG,
    SCALED,
    Derivative,
    queue_of,
)
from lens_pipeline.derivatives.removal import retire


def _job(description: str, *derivatives: Derivative):
    assets = [derivative.asset for derivative in derivatives]
    return dg.define_asset_job(
        derivatives[0].job,
        selection=assets,
        tags={QUEUE_TAG: queue_of(assets)},
        description=description,
    )


previews = _job("Make previews of photos.", PREVIEW)
posters = _job("Make posters of videos.", POSTER)
masters = _job("Join shots into master videos, with posters.", MASTER, MASTER_POSTER)
shot_checks = _job("Check shots ahead of the masters they may be used in.", CHECKED_SHOT)
scaled = _job("Make renditions of master videos.", SCALED)
daily_reports = dg.define_asset_job(
    "daily_reports",
    selection=[REPORT],
    tags={QUEUE_TAG: queue_of([REPORT])},
    description="Report on a day: figures by kind, and whether the service level was kept.",
)


@dg.op
def retire_old_keys(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Take finished keys older than LENS_RETAIN_PARTITIONS_DAYS out of the partition sets."""
    for derivative in (*DERIVATIVES, CHECKED_SHOT):
        count = retire(lens.pipeline(), context.instance, derivative)
        context.log.info("%s: %d keys retired; files and history stay", derivative.asset, count)


@dg.op
def trim_shot_cache(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Delete cached shots over LENS_SHOT_CACHE_DAYS old or beyond LENS_SHOT_CACHE_BYTES."""
    settings = lens.pipeline().settings
    now = dt.datetime.now(dt.UTC)
    deleted, left = trim(
        lens.pipeline().store, now, settings.shot_cache_days, settings.shot_cache_bytes
    )
    context.log.info("%d cached shots deleted, %d bytes left", deleted, left)


@dg.job
def retirement() -> None:
    """Keep what grows small: partition sets (Dagster advises at most 100,000 keys), the cache."""
    retire_old_keys()
    trim_shot_cache()


@dg.op
def prune_history(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Delete events, runs and ticks over LENS_RETAIN_…_DAYS old that nothing needs."""
    context.log.info("%s", prune(lens.pipeline(), dt.datetime.now(dt.UTC)))


# Takes minutes after a large backlog: no preview may wait for it.
@dg.job(name="retention", tags={QUEUE_TAG: MASTERS})
def retention_job() -> None:
    """Keep Dagster's event log, runs and ticks small; what they say of any file stays the same."""
    prune_history()
