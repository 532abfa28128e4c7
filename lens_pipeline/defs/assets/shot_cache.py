"""What was found out and encoded of shots, kept in the store for other masters."""

import datetime as dt
import logging
import threading
from pathlib import Path

from lens_pipeline.errors import DerivativeError, SourceMissing
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import ObjectStore

logger = logging.getLogger(__name__)

PREFIX = "cache/shots/"

_MAX_BYTES = 1 << 40
_READ_SECONDS = 60.0


class ShotCache:
    """The store as a cache: when it fails, work is done again rather than given up."""

    def __init__(self, store: ObjectStore, directory: Path) -> None:
        """`directory` takes the files that were found."""
        self._store = store
        self._directory = directory

    def find(self, key: str) -> Path | None:
        """A copy of what was kept as `key`."""
        file = self._directory / key
        if file.exists():
            return file
        # The same shot may be looked for twice at once: what is half read must not be found.
        unfinished = self._directory / f"{key}.{threading.get_ident()}"
        try:
            self._store.read_into(
                PREFIX + key, unfinished, max_bytes=_MAX_BYTES, deadline_seconds=_READ_SECONDS
            )
        except SourceMissing:
            return None
        except DerivativeError as error:
            logger.warning("the cached shot %s cannot be read: %s", key, error)
            return None
        return unfinished.replace(file)

    def keep(self, key: str, file: Path) -> None:
        """Keep the contents of `file` as `key`."""
        try:
            self._store.write(PREFIX + key, file, content_type=content_type_of(key))
        except DerivativeError as error:
            logger.warning("the cached shot %s cannot be stored: %s", key, error)


def trim(store: ObjectStore, now: dt.datetime, days: int, most_bytes: int) -> tuple[int, int]:
    """Delete what is older than `days`, then the oldest above `most_bytes` in all.

    Returns how many objects were deleted and how many bytes are left. Raises DerivativeError: the
    store does not answer.
    """
    kept = sorted(store.list(PREFIX), key=lambda info: info.modified)
    total = sum(info.bytes for info in kept)
    deleted = 0
    for info in kept:
        if info.modified >= now - dt.timedelta(days=days) and total <= most_bytes:
            break
        store.delete(info.key)
        total -= info.bytes
        deleted += 1
    return deleted, total
