"""The jobs that sensors, the backfill and people start."""

import datetime as dt

import dagster as dg

from lens_pipeline.assets.shot_cache import trim
from lens_pipeline.derivatives import (
    CHECKED_SHOT,
    DERIVATIVES,
    MASTER,
    MASTER_POSTER,
    POSTER,
    PREVIEW,
    SCALED,
    Derivative,
)
from lens_pipeline.engine.queues import QUEUE_TAG, queue_of
from lens_pipeline.pipeline import LensResource
from lens_pipeline.removal import retire


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
