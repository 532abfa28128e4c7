"""The jobs that sensors, the backfill and people start."""

import dagster as dg

from lens_pipeline.derivatives import POSTER, PREVIEW, Derivative
from lens_pipeline.engine.queues import QUEUE_TAG, queue_of


def _job(derivative: Derivative, description: str):
    return dg.define_asset_job(
        derivative.job,
        selection=[derivative.asset],
        partitions_def=derivative.partitions,
        tags={QUEUE_TAG: queue_of([derivative.asset])},
        description=description,
    )


previews = _job(PREVIEW, "Make previews of photos.")
posters = _job(POSTER, "Make posters of videos.")
