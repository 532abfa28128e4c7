"""Renditions of masters."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import ScaledVideo
from lens_pipeline.defs.assets.batch import materialize_batch
from lens_pipeline.defs.assets.master_maker import media_work
from lens_pipeline.defs.assets.materializer import Metadata, Workshop, latency_seconds
from lens_pipeline.defs.assets.media_errors import media_failures
from lens_pipeline.defs.assets.renderers import PosterRenderer
from lens_pipeline.defs.partitions import scaled
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import MASTER, SCALED
from lens_pipeline.derivatives.status import Assessed
from lens_pipeline.errors import SourceMissing
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import ScaleSpec
from lens_pipeline.media.renditions import render_scaled
from lens_pipeline.settings import Settings


class ScaledMaker:
    """Cuts and fits masters."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pictures = PosterRenderer(settings)

    def make(self, workshop: Workshop, assessed: Assessed) -> Metadata:
        row = assessed.row
        if not isinstance(row, ScaledVideo):
            raise TypeError(f"{row.id} is no scaled video")
        if row.master is None:
            raise SourceMissing(f"no usable master has the id {row.master_id!r}")
        master_key = MASTER.object_key(row.master, MASTER.revision(row.master, self._settings))
        spec = ScaleSpec(row.width, row.height, row.start_seconds, row.end_seconds)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=workshop.scratch) as name:
            directory = Path(name)
            master = directory / "master.mp4"
            fetched = workshop.take(master_key, master)
            fetch_ended = time.monotonic()
            work = media_work(workshop, directory, self._settings, 1)
            with media_failures():
                rendition = render_scaled(master, spec, Tools.find(), work)
            picture, _ = self._pictures.render(rendition.path)
            render_ended = time.monotonic()
            key = SCALED.object_key(row, assessed.revision)
            size = rendition.path.stat().st_size
            workshop.keep(key, rendition.path, "video/mp4", assessed.revision)
        stored = time.monotonic()
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "path": key,
            "dagster/uri": workshop.store.uri(key),
            "bytes": size,
            "width": rendition.width,
            "height": rendition.height,
            "duration_seconds": round(rendition.duration_seconds, 3),
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": assessed.revision,
            "fetch_seconds": round(fetch_ended - started, 4),
            "render_seconds": round(render_ended - fetch_ended, 4),
            "store_seconds": round(stored - render_ended, 4),
            "latency_seconds": latency_seconds(row),
            "thumbhash": picture.thumbhash,
        }

    def interrupt(self) -> None:
        self._pictures.interrupt()


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
