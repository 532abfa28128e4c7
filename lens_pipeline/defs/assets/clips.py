"""Materializes hover clips of videos."""

import tempfile
import time
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import Generation, Row
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, stage_seconds
from lens_pipeline.defs.assets.renderers import PosterRenderer, media_failures
from lens_pipeline.derivatives.registry import CLIP
from lens_pipeline.media.clips import EDGE, MOST_BYTES, render_clip
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.settings import Settings


class ClipMaterializer:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._posters = PosterRenderer(settings, EDGE)

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        if not isinstance(row, Generation):
            raise TypeError(f"{row.id} is no generation")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=batch.scratch) as name:
            directory = Path(name)
            source = directory / "source"
            fetched = batch.originals.fetch(row, source)
            fetch_ended = time.monotonic()
            picture, facts = self._posters.render(source)
            at, seconds = facts["poster_at_seconds"], facts["duration_seconds"]
            work = Work(
                directory,
                batch.cancelled.is_set,
                lambda *_: None,
                idle_seconds=self._settings.encode_idle_seconds,
            )
            with media_failures():
                clip = render_clip(source, at, seconds, Tools.find(), work)
            render_ended = time.monotonic()
            key = CLIP.object_key(row, revision)
            batch.provenance.complete_mp4(
                row,
                clip.path,
                key,
                lambda: [batch.provenance.source(row, row.id, source, fetched.sha256)],
                ("c2pa.trimmed", "c2pa.transcoded"),
                MOST_BYTES,
            )
            size = clip.path.stat().st_size
            batch.transfers.upload(key, clip.path, "video/mp4", revision)
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "path": key,
            "dagster/uri": batch.transfers.store.uri(key),
            "bytes": size,
            "width": clip.width,
            "height": clip.height,
            "duration_seconds": round(clip.duration_seconds, 3),
            "poster_at_seconds": at,
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            **stage_seconds(row, started, fetch_ended, render_ended),
            "thumbhash": picture.thumbhash,
        }

    def interrupt(self) -> None:
        self._posters.interrupt()
