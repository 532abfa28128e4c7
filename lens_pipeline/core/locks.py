"""Advisory locks in Dagster's database. No statement on a table.

A killed process frees its locks at once, a lost machine within 15 s. A pooler in transaction mode
cannot hold them (port 6543 of Supabase).
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from lens_pipeline.core import postgres


def lock_id(*parts: str) -> int:
    """A signed 64-bit key."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class LockSession:
    """Methods raise sqlalchemy.exc.OperationalError once the session and its locks are lost."""

    def __init__(self, dagster_url: str, name: str = "lens-pipeline-locks") -> None:
        self._connection = _engine(name, dagster_url).connect()

    def close(self) -> None:
        self._connection.close()

    def abandon(self) -> None:
        """Close a broken connection without talking to the server."""
        self._connection.invalidate()
        self.close()

    def execute(self, statement: sa.Executable, **values: Any) -> sa.CursorResult[Any]:
        return self._connection.execute(statement, values)

    @property
    def driver(self) -> Any:
        """psycopg2's connection."""
        return self._connection.connection.dbapi_connection

    def release(self, locks: Iterable[int]) -> None:
        self.execute(_UNLOCK, keys=list(locks)).all()

    def try_all(self, locks: Iterable[int]) -> set[int]:
        """Take the free ones; never waits. A lock taken twice must be released twice."""
        return set(self.execute(_TRY_LOCK, keys=list(locks)).scalars())

    def is_held(self, lock: int) -> bool:
        return bool(self.execute(_IS_HELD, key=lock).scalar())

    def offer_slots(self, queue: int, slots: int) -> None:
        """Tell the daemon that `slots` more runs can begin. `queue`: a `queue_id`."""
        self.execute(_OFFER, queue=queue, slots=slots)

    def withdraw_slots(self, queue: int, slots: int) -> None:
        self.execute(_WITHDRAW, queue=queue, slots=slots)


@contextmanager
def held(dagster_url: str, locks: Iterable[int]) -> Iterator[set[int]]:
    """Yields those of `locks` that are free, and holds them to the end of the block."""
    session = LockSession(dagster_url)
    try:
        yield session.try_all(locks)
    finally:
        session.close()


@functools.cache
def _engine(name: str, dagster_url: str) -> sa.Engine:
    """An engine without a pool. One is kept: the first connection of each asks seven questions."""
    return postgres.connect(name, dagster_url, pool_size=0, isolation_level="AUTOCOMMIT")


_UNLOCK = sa.text("SELECT pg_advisory_unlock(k) FROM unnest(CAST(:keys AS bigint[])) AS k")
_TRY_LOCK = sa.text(
    "SELECT k FROM unnest(CAST(:keys AS bigint[])) AS k WHERE pg_try_advisory_lock(k)"
)
_IS_HELD = sa.text(
    """
    SELECT EXISTS (
      SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid = (CAST(:key AS bigint) >> 32 & 4294967295)::oid
        AND objid = (CAST(:key AS bigint) & 4294967295)::oid)
    """
)
# PostgreSQL lists a shared lock once for each worker's session.
_OFFER = sa.text("SELECT pg_advisory_lock_shared(CAST(:queue AS int), CAST(:slots AS int))")
_WITHDRAW = sa.text("SELECT pg_advisory_unlock_shared(CAST(:queue AS int), CAST(:slots AS int))")
# By `queue_id`.
SLOTS = sa.text(
    """
    SELECT CASE WHEN queue > 2147483647 THEN queue - 4294967296 ELSE queue END AS queue,
           sum(slots) AS slots, count(*) AS workers
      FROM (SELECT CAST(classid AS bigint) AS queue, CAST(objid AS bigint) AS slots FROM pg_locks
             WHERE locktype = 'advisory' AND objsubid = 2 AND granted
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
           AS offered
     GROUP BY queue
    """
)


def queue_id(queue: str, release: str) -> int:
    """A signed 32-bit key."""
    digest = hashlib.blake2b(f"{queue}\0{release}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big", signed=True)


def run_lock(run_id: str) -> int:
    """Shows the daemon that the run's worker lives."""
    return lock_id("run", run_id)


def daemon_lock() -> int:
    return lock_id("daemon")


def alerts_lock() -> int:
    return lock_id("alerts")


def webhooks_lock() -> int:
    return lock_id("webhooks")


def projection_lock() -> int:
    return lock_id("projection")


def partition_lock(asset: str, key: str) -> int:
    return lock_id("partition", asset, key)
