"""Renditions of masters."""

from collections.abc import Iterator

import dagster as dg

from lens_pipeline.assets.batch import materialize_batch
from lens_pipeline.assets.scaled_maker import ScaledMaker
from lens_pipeline.defs.partitions import scaled
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import MASTER, SCALED


# Recorded when it is stored, hence no output; which master it is of is in its row.
@dg.asset(
    name=SCALED.asset,
    partitions_def=scaled,
    deps=[
        dg.AssetDep(MASTER.asset, partition_mapping=dg.SpecificPartitionsPartitionMapping([])),
    ],
    code_version=SCALED.code_version,
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    output_required=False,
    group_name="masters",
    kinds={"mp4"},
)
def scaled_video(
    context: dg.AssetExecutionContext, lens: LensResource
) -> Iterator[dg.Output[None]]:
    """A master, or a part of it, fitted into another size."""
    pipeline = lens.pipeline()
    materialize_batch(context, pipeline, (SCALED, ScaledMaker(pipeline.settings)))
    yield from ()
