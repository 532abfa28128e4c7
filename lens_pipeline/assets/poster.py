"""Posters of videos."""

from collections.abc import Iterator

import dagster as dg

from lens_pipeline.assets.batch import materialize_batch
from lens_pipeline.assets.pictures import PictureMaker
from lens_pipeline.assets.renderers import PosterRenderer
from lens_pipeline.defs.partitions import videos
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import POSTER


def build_poster(batch_size: int) -> dg.AssetsDefinition:
    """The asset; `batch_size` is the most partitions that one run of a backfill takes."""

    # Partitions are recorded one by one as their files are stored, hence no output of the whole.
    @dg.asset(
        name=POSTER.asset,
        partitions_def=videos,
        deps=["video_generation"],
        code_version=POSTER.code_version,
        backfill_policy=dg.BackfillPolicy.multi_run(batch_size),
        output_required=False,
        group_name="derivatives",
        kinds={"webp"},
    )
    def poster(context: dg.AssetExecutionContext, lens: LensResource) -> Iterator[dg.Output[None]]:
        """WebP poster of one video: its first frame worth looking at."""
        pipeline = lens.pipeline()
        renderer = PosterRenderer(pipeline.settings)
        maker = PictureMaker(POSTER, renderer)
        materialize_batch(context, pipeline, (POSTER, maker))
        yield from ()

    return poster
