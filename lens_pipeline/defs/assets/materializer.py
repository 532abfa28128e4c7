"""What makers of derivatives share: where they fetch from, work and store."""

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import dagster as dg

from lens_pipeline.catalog.rows import Row
from lens_pipeline.derivatives.status import Assessed
from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.object_store import (
    CACHE_IMMUTABLE,
    CACHE_REVALIDATE,
    Fetched,
    ObjectStore,
)
from lens_pipeline.storage.retries import FILE_RETRIES, retry_transient

# How long a store that does not answer is asked for one file, seconds.
_STORE_SECONDS = 60.0
# The same for reading an output, which may have any size.
_TAKE_SECONDS = 600.0
_LARGEST = 1 << 40

Metadata = dict[str, dg.MetadataValue | str | int | float]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a batch's threads share."""

    fetcher: Fetcher
    store: ObjectStore
    scratch: Path
    cancelled: threading.Event
    # Tells people how far a long piece of work is: in percent of the whole, and in words.
    report: Callable[[int, str], None]

    def take(self, key: str, file: Path) -> Fetched:
        """Fetch an output of ours, however large, into `file`."""
        return retry_transient(
            lambda: self.store.read_into(
                key, file, max_bytes=_LARGEST, deadline_seconds=_TAKE_SECONDS
            ),
            FILE_RETRIES,
            within_seconds=_TAKE_SECONDS,
            cancelled=self.cancelled,
        )

    def keep(self, key: str, body: bytes | Path, content_type: str, revision: str) -> None:
        """Store `body` as `key`, trying again for a while. It is cached for ever if the key holds
        the revision.
        """
        caching = CACHE_IMMUTABLE if f"_{revision}." in key else CACHE_REVALIDATE
        retry_transient(
            lambda: self.store.write(key, body, content_type=content_type, cache_control=caching),
            FILE_RETRIES,
            within_seconds=_STORE_SECONDS,
            cancelled=self.cancelled,
        )


class Maker(Protocol):
    """Makes and stores the derivative of one row; used by several threads."""

    def make(self, workshop: Workshop, assessed: Assessed) -> Metadata:
        """Returns the metadata of what is now in the store.

        Raises DerivativeError: the file's own reason. Nothing is left in the scratch directory.
        """
        ...

    def interrupt(self) -> None:
        """Make every `make()` under way fail at once; `workshop.cancelled` is set already."""
        ...


def latency_seconds(row: Row) -> float:
    """From the row's end to now; a row stamped in the future counts as just finished."""
    if row.finished_at is None:
        return 0.0
    elapsed = dt.datetime.now(dt.UTC) - row.finished_at
    return round(max(elapsed.total_seconds(), 0.0), 3)
