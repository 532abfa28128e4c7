"""Remembered answers about Dagster's tables."""

import functools
from collections.abc import Callable


class Schema:
    """Remembers what exists: the stock storage asks before most reads, half the cost of a tick."""

    def __init__(self) -> None:
        self._there: set[str] = set()

    def has(self, what: str, ask: Callable[[], bool]) -> bool:
        if what not in self._there and ask():
            self._there.add(what)
        return what in self._there


@functools.cache
def schema_of(_postgres_url: str) -> Schema:
    return Schema()
