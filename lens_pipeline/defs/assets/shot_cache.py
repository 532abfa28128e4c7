"""The cache in the store of what was found out and encoded of shots."""

import datetime as dt
import logging
import threading
from pathlib import Path

from lens_pipeline.errors import DerivativeError, SourceMissing
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import ObjectStore

logger = logging.getLogger(__name__)

PREFIX = "cache/shots/"


class ShotCache:
    """The store as a cache, copied to `directory`; while it fails, work is done again."""

    def __init__(self, store: ObjectStore, directory: Path, cancelled: threading.Event) -> None:
        self._store = store
        self._directory = directory
        self._cancelled = cancelled

    def find(self, key: str) -> Path | None:
        file = self._directory / key
        if file.exists():
            return file
        # Another thread must not find a partial file.
        unfinished = self._directory / f"{key}.{threading.get_ident()}"
        try:
            self._store.read_into(PREFIX + key, unfinished, cancelled=self._cancelled)
        except SourceMissing:
            return None
        except DerivativeError as error:
            logger.warning("the cached shot %s cannot be read: %s", key, error)
            return None
        return unfinished.replace(file)

    def keep(self, key: str, file: Path) -> None:
        try:
            self._store.write(PREFIX + key, file, content_type=content_type_of(key))
        except DerivativeError as error:
            logger.warning("the cached shot %s cannot be stored: %s", key, error)


def trim(store: ObjectStore, now: dt.datetime, days: int, most_bytes: int) -> tuple[int, int]:
    """Returns the number of objects deleted and the bytes left. Raises DerivativeError."""
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
