"""Materializes WebP pictures, which `renderers` renders."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from lens_pipeline.catalog.rows import Generation, MasterVideo, Row
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, stage_seconds
from lens_pipeline.defs.assets.renderers import Renderer
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.errors import SourceUnreadable
from lens_pipeline.media.provenance import marked_webp
from lens_pipeline.storage.object_store import Fetched

# Downloads the file that the picture of a row is made from.
Fetch = Callable[[BatchContext, Any, Path], Fetched]


def fetch_source(batch: BatchContext, row: Generation, file: Path) -> Fetched:
    return batch.originals.fetch(row, file)


class PictureMaterializer:
    def __init__(
        self, derivative: Derivative, renderer: Renderer, fetch: Fetch = fetch_source
    ) -> None:
        self._derivative = derivative
        self._renderer = renderer
        self._fetch = fetch

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        file = batch.scratch / row.id
        started = time.monotonic()
        fetched = self._fetch(batch, row, file)
        fetch_ended = time.monotonic()
        facts: Metadata = {}
        try:
            try:
                picture, extra = self._renderer.render(file)
            except SourceUnreadable:
                again = batch.originals.fetch_again(row, file)
                if again is None:
                    raise
                fetched = again
                picture, extra = self._renderer.render(file)
            render_ended = time.monotonic()
            facts = {"width": picture.source_width, "height": picture.source_height}
            facts |= {name: extra[name] for name in extra if name == "duration_seconds"}
            key = self._derivative.object_key(row, revision)
            webp = marked_webp(picture.webp, batch.source_type(row))
            batch.transfers.upload(key, webp, "image/webp", revision)
        finally:
            batch.originals.release(row, file, fetched, facts)
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "links": dg.MetadataValue.md(_links(self._derivative, row, key)),
            "path": key,
            "dagster/uri": batch.transfers.store.uri(key),
            "bytes": len(webp),
            "width": picture.width,
            "height": picture.height,
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            **stage_seconds(row, started, fetch_ended, render_ended),
            "thumbhash": picture.thumbhash,
            **extra,
        }

    def interrupt(self) -> None:
        self._renderer.interrupt()


def _links(derivative: Derivative, row: Row, key: str) -> str:
    """The picture and what belongs to it, by addresses that need the login of the UI."""
    if isinstance(row, MasterVideo):
        url = f"/lens/api/projects/{row.project_id}/master-videos/{row.id}"
        whole, more = f"{url}/poster", f"[video]({url}/video) · [masters](/lens/masters)"
    else:
        url = f"/lens/api/generations/{row.id}"
        whole = f"{url}/{derivative.asset}"
        more = f"[original]({url}/file) · [library](/lens/library)"
    return f"[![{derivative.asset}](/lens/pictures/{key})]({whole})\n\n{more}"
