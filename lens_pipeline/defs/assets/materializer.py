"""The interface of materializers, and what they work with."""

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lens_pipeline.catalog.rows import MasterVideo, Row
from lens_pipeline.defs.assets.originals import Metadata, Originals, Transfers
from lens_pipeline.defs.assets.provenance import Provenance
from lens_pipeline.event_log.history import ReportedProgress


@dataclass(frozen=True, slots=True)
class BatchContext:
    """Shared by the threads of a batch."""

    transfers: Transfers
    originals: Originals
    scratch: Path
    cancelled: threading.Event
    report: Callable[[ReportedProgress], None]
    # The object key of a master as it is ready now. Raises NotReady.
    master_key: Callable[[MasterVideo], str]
    # Whether nothing has deleted it meanwhile.
    has_rendition: Callable[[Row], bool]
    provenance: Provenance


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
