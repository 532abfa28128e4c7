"""One file: fetch → render → store, with what people want to know about it."""

import datetime as dt
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from lens_pipeline.assets.renderers import Renderer
from lens_pipeline.catalog import Generation
from lens_pipeline.failures import SourceOverLimit, SourceUnreadable
from lens_pipeline.fetch import FILE_RETRIES, Fetcher, retry_transient
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.model import Picture
from lens_pipeline.store import ObjectStore

# How long a store that does not answer is asked for one file, seconds.
_STORE_SECONDS = 60.0

Metadata = dict[str, dg.MetadataValue | str | int | float]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a batch's threads share."""

    fetcher: Fetcher
    renderer: Renderer
    store: ObjectStore
    scratch: Path
    cancelled: threading.Event

    def interrupt(self) -> None:
        """Make every thread give up its file at once."""
        self.cancelled.set()
        self.renderer.interrupt()


def produce(workshop: Workshop, generation: Generation, key: str, revision: str) -> Metadata:
    """Make the derivative of one row at `key` of the store; returns its metadata.

    Raises DerivativeError: the file's own reason. Nothing is left in the scratch directory.
    """
    source = workshop.scratch / generation.id
    started = time.monotonic()
    try:
        fetched = workshop.fetcher.fetch(generation.asset_url, source)
        fetch_ended = time.monotonic()
        picture, extra = _render(workshop.renderer, source)
    finally:
        source.unlink(missing_ok=True)
    render_ended = time.monotonic()
    _store(workshop, key, picture.webp)
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
        "revision": revision,
        "fetch_seconds": round(fetch_ended - started, 4),
        "render_seconds": round(render_ended - fetch_ended, 4),
        "store_seconds": round(stored - render_ended, 4),
        "latency_seconds": _latency_seconds(generation),
        "thumbhash": picture.thumbhash,
        **extra,
    }


def _render(renderer: Renderer, source: Path) -> tuple[Picture, dict[str, float]]:
    try:
        return renderer.render(source)
    except MediaError as error:
        kind = SourceOverLimit if error.over_limit else SourceUnreadable
        raise kind(str(error)) from error


def _store(workshop: Workshop, key: str, webp: bytes) -> None:
    retry_transient(
        lambda: workshop.store.write(key, webp, content_type="image/webp"),
        FILE_RETRIES,
        within_seconds=_STORE_SECONDS,
        cancelled=workshop.cancelled,
    )


def _latency_seconds(generation: Generation) -> float:
    """From the row's end to now; a row stamped in the future counts as just finished."""
    if generation.finished_at is None:
        return 0.0
    elapsed = dt.datetime.now(dt.UTC) - generation.finished_at
    return round(max(elapsed.total_seconds(), 0.0), 3)
