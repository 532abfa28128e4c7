"""Master videos and their posters."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import MasterVideo
from lens_pipeline.defs.assets.batch import materialize_batch
from lens_pipeline.defs.assets.master_maker import MasterMaker
from lens_pipeline.defs.assets.materializer import Workshop
from lens_pipeline.defs.assets.pictures import PictureMaker
from lens_pipeline.defs.assets.renderers import PosterRenderer
from lens_pipeline.defs.partitions import masters
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import MASTER, MASTER_POSTER
from lens_pipeline.storage.object_store import Fetched

# Which videos a master is made of is in its row: it depends on none of them by its key, and must
# not look stale because some other video has finished.
_BY_ROW = dg.SpecificPartitionsPartitionMapping([])

_SPECS = (
    dg.AssetSpec(
        MASTER.asset,
        deps=[dg.AssetDep("video_generation", partition_mapping=_BY_ROW)],
        code_version=MASTER.code_version,
        skippable=True,
        group_name="masters",
        kinds={"mp4"},
        description="Shots of a project joined into one MP4: copied where they can be, encoded"
        " anew only where they must be, and proved against their sources.",
    ),
    dg.AssetSpec(
        MASTER_POSTER.asset,
        deps=[MASTER.asset],
        code_version=MASTER_POSTER.code_version,
        skippable=True,
        group_name="masters",
        kinds={"webp"},
        description="WebP poster of one master: its first frame worth looking at.",
    ),
)


# One step for both: Dagster would skip a second one whenever the first has nothing to do.
@dg.multi_asset(
    name="master",
    specs=_SPECS,
    partitions_def=masters,
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.multi_run(1),
)
def master_assets(
    context: dg.AssetExecutionContext, lens: LensResource
) -> Iterator[dg.MaterializeResult]:
    """Join the shots of one master, and make its poster."""
    pipeline = lens.pipeline()
    settings = pipeline.settings

    def fetch_master(workshop: Workshop, row: MasterVideo, file: Path) -> Fetched:
        return workshop.take(MASTER.object_key(row, MASTER.revision(row, settings)), file)

    posters = PictureMaker(MASTER_POSTER, PosterRenderer(settings), fetch_master)
    makers = ((MASTER, MasterMaker(settings)), (MASTER_POSTER, posters))
    chosen = {key.to_user_string() for key in context.selected_asset_keys}
    materialize_batch(context, pipeline, *(pair for pair in makers if pair[0].asset in chosen))
    yield from ()
