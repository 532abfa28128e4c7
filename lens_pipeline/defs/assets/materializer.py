"""The interface of materializers, and what they work with."""

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dagster as dg

from lens_pipeline.catalog.rows import MasterVideo, Row
from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.object_store import (
    CACHE_IMMUTABLE,
    CACHE_REVALIDATE,
    Fetched,
    ObjectStore,
    transfer_seconds,
)
from lens_pipeline.storage.retries import FILE_RETRIES, retry_transient

Metadata = dict[str, dg.MetadataValue | str | int | float]


@dataclass(frozen=True, slots=True)
class BatchContext:
    """Shared by the threads of a batch."""

    fetcher: Fetcher
    store: ObjectStore
    scratch: Path
    cancelled: threading.Event
    # Takes the percent of the whole and the stage.
    report: Callable[[int, str], None]
    # The object key of a master as it is ready now. Raises NotReady.
    master_key: Callable[[MasterVideo], str]

    def download(self, key: str, file: Path) -> Fetched:
        return retry_transient(
            lambda: self.store.read_into(key, file, cancelled=self.cancelled),
            FILE_RETRIES,
            cancelled=self.cancelled,
        )

    def upload(self, key: str, body: bytes | Path, content_type: str, revision: str) -> None:
        """Cached for ever if `key` holds the revision."""
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        caching = CACHE_IMMUTABLE if f"_{revision}." in key else CACHE_REVALIDATE
        retry_transient(
            lambda: self.store.write(key, body, content_type=content_type, cache_control=caching),
            FILE_RETRIES,
            within_seconds=transfer_seconds(size),
            cancelled=self.cancelled,
        )


class Materializer(Protocol):
    """Makes and stores the derivative of one row, on several threads."""

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        """Leaves no scratch file. Raises DerivativeError."""
        ...

    def interrupt(self) -> None:
        """Make every `make()` fail at once; `batch.cancelled` is set already."""


def stage_seconds(row: Row, started: float, fetched: float, rendered: float) -> dict[str, float]:
    """Metadata with the seconds of each stage; storing ends now. Times are monotonic."""
    return {
        "fetch_seconds": round(fetched - started, 4),
        "render_seconds": round(rendered - fetched, 4),
        "store_seconds": round(time.monotonic() - rendered, 4),
        "latency_seconds": latency_seconds(row),
    }


def latency_seconds(row: Row) -> float:
    """Seconds since the row finished; 0 if its time is in the future or unknown."""
    if row.finished_at is None:
        return 0.0
    elapsed = dt.datetime.now(dt.UTC) - row.finished_at
    return round(max(elapsed.total_seconds(), 0.0), 3)
