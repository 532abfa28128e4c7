"""Materializes renditions: masters, or parts of them, fitted into another size."""

import tempfile
import time
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import Row, ScaledVideo
from lens_pipeline.defs.assets.masters import media_work
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, stage_seconds
from lens_pipeline.defs.assets.renderers import PosterRenderer, media_failures
from lens_pipeline.derivatives.registry import SCALED
from lens_pipeline.errors import SourceMissing
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import ScaleSpec
from lens_pipeline.media.renditions import render_scaled
from lens_pipeline.settings import Settings


class RenditionMaterializer:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pictures = PosterRenderer(settings, settings.preview_edge)

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        if not isinstance(row, ScaledVideo):
            raise TypeError(f"{row.id} is no rendition")
        if row.master is None:
            raise SourceMissing(f"no usable master has the id {row.master_id!r}")
        master_key = batch.master_key(row.master)
        spec = ScaleSpec(row.width, row.height, row.start_seconds, row.end_seconds)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=batch.scratch) as name:
            directory = Path(name)
            master = directory / "master.mp4"
            fetched = batch.transfers.download(master_key, master)
            fetch_ended = time.monotonic()
            work = media_work(batch, directory, self._settings, 1)
            with media_failures():
                rendition = render_scaled(master, spec, Tools.find(), work)
            picture, _ = self._pictures.render(rendition.path)
            render_ended = time.monotonic()
            key = SCALED.object_key(row, revision)
            batch.provenance.complete_mp4(
                row,
                rendition.path,
                key,
                lambda: [batch.provenance.source(row, row.master_id, master, fetched.sha256)],
                _actions(row),
            )
            size = rendition.path.stat().st_size
            batch.transfers.upload(key, rendition.path, "video/mp4", revision)
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "path": key,
            "dagster/uri": batch.transfers.store.uri(key),
            "bytes": size,
            "width": rendition.width,
            "height": rendition.height,
            "duration_seconds": round(rendition.duration_seconds, 3),
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            **stage_seconds(row, started, fetch_ended, render_ended),
            "thumbhash": picture.thumbhash,
        }

    def interrupt(self) -> None:
        self._pictures.interrupt()


def _actions(row: ScaledVideo) -> tuple[str, ...]:
    """What C2PA calls what becomes of its master."""
    is_part = row.start_seconds is not None or row.end_seconds is not None
    return ("c2pa.trimmed", "c2pa.transcoded") if is_part else ("c2pa.transcoded",)
