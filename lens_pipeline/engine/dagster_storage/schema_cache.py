"""Remembered answers to what Dagster's storage asks about its tables."""

import functools
from collections.abc import Callable


class Schema:
    """Remembers what exists: it stays.

    The stock storage asks the database before most reads of runs and ticks, to work on tables of
    older versions: half of what a sensor's tick costs.
    """

    def __init__(self) -> None:
        self._there: set[str] = set()

    def has(self, what: str, ask: Callable[[], bool]) -> bool:
        if what not in self._there and ask():
            self._there.add(what)
        return what in self._there


@functools.cache
def schema_of(_postgres_url: str) -> Schema:
    """The answers of a database, for all storages of this process."""
    return Schema()
