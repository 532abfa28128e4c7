"""The same work without Dagster: the product's own fetching, rendering and storing in a loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lens_pipeline.core.files import scratch_directory
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import WEBP_EFFORT
from lens_pipeline.media.models import PreviewSpec
from lens_pipeline.media.sandbox.pool import Sandbox
from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.object_store import ObjectStore, is_object_key


@dataclass(frozen=True, slots=True)
class BareWorker:
    """Makes previews and keeps originals; safe to use from several threads."""

    fetcher: Fetcher
    sandbox: Sandbox
    spec: PreviewSpec
    store: ObjectStore
    scratch: Path

    def make(self, name: str, source: str, key: str) -> None:
        """Store at `key` the preview of `source`, and beside it what is not in the store.

        `name` is for the temporary file.
        """
        fetched = self.scratch / name
        try:
            self.fetcher.fetch(source, fetched)
            picture = self.sandbox.preview(fetched, self.spec)
            self.store.write(key, picture.webp, content_type="image/webp")
            if not is_object_key(source):
                self.store.write(f"{key}.original", fetched, content_type="image/jpeg")
        finally:
            fetched.unlink(missing_ok=True)


@contextmanager
def bare_worker(pipeline: Pipeline, processes: int) -> Iterator[BareWorker]:
    """A worker with the pipeline's settings and store, and so many processes to render in."""
    settings = pipeline.settings
    spec = PreviewSpec(
        settings.preview_edge, settings.preview_quality, WEBP_EFFORT, settings.max_pixels
    )
    with (
        scratch_directory(settings.scratch) as scratch,
        Sandbox(
            processes, settings.render_timeout_seconds, settings.render_memory_mib, scratch
        ) as sandbox,
        Fetcher(
            pipeline.store,
            timeout_seconds=settings.fetch_timeout_seconds,
            max_bytes=settings.max_source_bytes,
            allow_hosts=settings.fetch_allow_hosts,
        ) as fetcher,
    ):
        sandbox.start()
        yield BareWorker(fetcher, sandbox, spec, pipeline.store, scratch)
