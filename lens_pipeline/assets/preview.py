"""Previews of photos."""

from collections.abc import Iterator

import dagster as dg

from lens_pipeline.assets.batch import materialize_batch
from lens_pipeline.assets.pictures import PictureMaker
from lens_pipeline.assets.renderers import PreviewRenderer
from lens_pipeline.defs.partitions import photos
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import PREVIEW


def build_preview(batch_size: int) -> dg.AssetsDefinition:
    """The asset; `batch_size` is the most partitions that one run of a backfill takes."""

    # Partitions are recorded one by one as their files are stored, hence no output of the whole.
    @dg.asset(
        name=PREVIEW.asset,
        partitions_def=photos,
        deps=["photo_generation"],
        code_version=PREVIEW.code_version,
        backfill_policy=dg.BackfillPolicy.multi_run(batch_size),
        output_required=False,
        group_name="derivatives",
        kinds={"webp"},
    )
    def preview(context: dg.AssetExecutionContext, lens: LensResource) -> Iterator[dg.Output[None]]:
        """WebP preview of one photo: upright, sRGB, at most LENS_PREVIEW_EDGE pixels."""
        pipeline = lens.pipeline()
        renderer = PreviewRenderer(pipeline.settings)
        maker = PictureMaker(PREVIEW, renderer)
        materialize_batch(context, pipeline, (PREVIEW, maker))
        yield from ()

    return preview
