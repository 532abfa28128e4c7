"""The jobs that sensors, the backfill and people start."""

import dagster as dg

from lens_pipeline.derivatives import DERIVATIVES, POSTER, PREVIEW, Derivative
from lens_pipeline.engine.queues import QUEUE_TAG, queue_of
from lens_pipeline.pipeline import LensResource
from lens_pipeline.removal import retire


def _job(derivative: Derivative, description: str):
    return dg.define_asset_job(
        derivative.job,
        selection=[derivative.asset],
        tags={QUEUE_TAG: queue_of([derivative.asset])},
        description=description,
    )


previews = _job(PREVIEW, "Make previews of photos.")
posters = _job(POSTER, "Make posters of videos.")


@dg.op
def retire_old_keys(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Take finished keys older than LENS_RETAIN_PARTITIONS_DAYS out of the partition sets."""
    for derivative in DERIVATIVES:
        count = retire(lens.pipeline(), context.instance, derivative)
        context.log.info("%s: %d keys retired; files and history stay", derivative.asset, count)


@dg.job
def retirement() -> None:
    """Keep the partition sets small: Dagster advises at most 100,000 keys an asset."""
    retire_old_keys()
