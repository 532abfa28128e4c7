"""Previews of photos and posters of videos."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from lens_pipeline.catalog.rows import Generation
from lens_pipeline.defs.assets.batch import materialize_batch
from lens_pipeline.defs.assets.materializer import Metadata, Workshop, latency_seconds
from lens_pipeline.defs.assets.renderers import PosterRenderer, PreviewRenderer, Renderer
from lens_pipeline.defs.partitions import photos, videos
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import POSTER, PREVIEW, Derivative
from lens_pipeline.derivatives.status import Assessed
from lens_pipeline.storage.object_store import Fetched

# Gets what the picture of a row is made from into a file.
Fetch = Callable[[Workshop, Any, Path], Fetched]


def fetch_source(workshop: Workshop, row: Generation, file: Path) -> Fetched:
    """What the application's row names."""
    return workshop.fetcher.fetch(row.asset_url, file)


class PictureMaker:
    """Makes the pictures of one derivative."""

    def __init__(
        self, derivative: Derivative, renderer: Renderer, fetch: Fetch = fetch_source
    ) -> None:
        self._derivative = derivative
        self._renderer = renderer
        self._fetch = fetch

    def make(self, workshop: Workshop, assessed: Assessed) -> Metadata:
        row = assessed.row
        file = workshop.scratch / row.id
        started = time.monotonic()
        try:
            fetched = self._fetch(workshop, row, file)
            fetch_ended = time.monotonic()
            picture, extra = self._renderer.render(file)
        finally:
            file.unlink(missing_ok=True)
        render_ended = time.monotonic()
        key = self._derivative.object_key(row, assessed.revision)
        workshop.keep(key, picture.webp, "image/webp", assessed.revision)
        stored = time.monotonic()
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "path": key,
            "dagster/uri": workshop.store.uri(key),
            "bytes": len(picture.webp),
            "width": picture.width,
            "height": picture.height,
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": assessed.revision,
            "fetch_seconds": round(fetch_ended - started, 4),
            "render_seconds": round(render_ended - fetch_ended, 4),
            "store_seconds": round(stored - render_ended, 4),
            "latency_seconds": latency_seconds(row),
            "thumbhash": picture.thumbhash,
            **extra,
        }

    def interrupt(self) -> None:
        self._renderer.interrupt()


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
