"""What Dagster's storage asks about its own tables."""

import functools
from collections.abc import Callable


class Schema:
    """Remembers each question that was answered by yes: what is there stays there.

    The stock storage reads the database's catalog before most reads of runs and ticks, so that it
    works on tables of older versions: half of what a sensor's tick costs.
    """

    def __init__(self) -> None:
        self._there: set[str] = set()

    def has(self, what: str, ask: Callable[[], bool]) -> bool:
        """Whether `what` is there, by `ask` if not known."""
        if what not in self._there and ask():
            self._there.add(what)
        return what in self._there


@functools.cache
def schema_of(_postgres_url: str) -> Schema:
    """What is known of a database in this process, also of storages that are no longer used."""
    return Schema()
