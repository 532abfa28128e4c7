"""Materializes WebP pictures, which `renderers` renders."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from lens_pipeline.catalog.rows import Generation, Row
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, stage_seconds
from lens_pipeline.defs.assets.renderers import Renderer
from lens_pipeline.defs.labels import links_of
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.errors import SourceUnreadable
from lens_pipeline.media.models import Ingredient, PictureSize
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
            source = batch.provenance.source(row, row.id, file, fetched.sha256)
            told = batch.provenance.facts(source) if isinstance(row, Generation) else {}
            facts |= told
            key = self._derivative.object_key(row, revision)
            facts["links"] = links_of(self._derivative, row, key)
            webp = batch.provenance.webp(row, picture.webp, key, source)
            sizes = {str(s.edge): _stored(batch, row, key, s, source) for s in picture.sizes}
            batch.transfers.upload(key, webp, "image/webp", revision)
        finally:
            batch.originals.release(row, file, fetched, facts)
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "links": facts["links"],
            "path": key,
            "dagster/uri": batch.transfers.store.uri(key),
            "bytes": len(webp),
            "width": picture.width,
            "height": picture.height,
            **({"sizes": dg.MetadataValue.json(sizes)} if sizes else {}),
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            **stage_seconds(row, started, fetch_ended, render_ended),
            "thumbhash": picture.thumbhash,
            **({"digital_source_type": source.source_type} if source.source_type else {}),
            **extra,
            **told,
        }

    def interrupt(self) -> None:
        self._renderer.interrupt()


def _stored(
    batch: BatchContext, row: Row, key: str, size: PictureSize, source: Ingredient
) -> dict[str, str | int]:
    """Store the picture at `key` in another size; returns its facts."""
    path = f"{key.removesuffix('.webp')}_{size.edge}.webp"
    webp = batch.provenance.webp(row, size.webp, path, source)
    batch.transfers.upload(path, webp, "image/webp", None)
    return {"path": path, "bytes": len(webp), "width": size.width, "height": size.height}
