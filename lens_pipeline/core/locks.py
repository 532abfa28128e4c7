"""Advisory locks in Dagster's database: they vanish with the process that holds them.

A run holds one for itself, which tells the daemon that its worker lives, and one for each partition
it works on, which keeps two runs from making the same output twice. A worker holds one that says
how many runs it takes. PostgreSQL ties them to the session, so a killed process frees them at once
and a lost machine within `database.GONE_SECONDS`, without anyone's help. They need a session of
their own: a pooler in transaction mode (Supabase's port 6543) cannot hold them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from lens_pipeline.core.postgres import connect_args, notice_lost_clients


def lock_id(*parts: str) -> int:
    """The signed 64-bit advisory lock key of a name."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class LockSession:
    """One database session that holds advisory locks until `close()` or the end of the process."""

    def __init__(self, dagster_url: str) -> None:
        self._engine = sa.create_engine(
            dagster_url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=connect_args("lens-pipeline-locks"),
        )
        notice_lost_clients(self._engine)
        self._connection = self._engine.connect()

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def abandon(self) -> None:
        """Drop a session whose connection is broken, without talking to the server."""
        self._connection.invalidate()
        self.close()

    def release(self, locks: Iterable[int]) -> None:
        """Give `locks` of ours back."""
        query = sa.text("SELECT pg_advisory_unlock(k) FROM unnest(CAST(:keys AS bigint[])) AS k")
        self._connection.execute(query, {"keys": list(locks)}).all()

    def try_all(self, locks: Iterable[int]) -> set[int]:
        """Those of `locks` that are ours now; the others are held elsewhere. Never waits."""
        # Already held ones would be counted twice by PostgreSQL, and need two unlocks.
        query = sa.text(
            "SELECT k FROM unnest(CAST(:keys AS bigint[])) AS k WHERE pg_try_advisory_lock(k)"
        )
        return set(self._connection.execute(query, {"keys": list(locks)}).scalars())

    def scalar(self, query: sa.Executable, values: Mapping[str, object] | None = None) -> Any:
        """The one value of a query, None without a row.

        Raises sqlalchemy.exc.OperationalError if the session, and with it the locks, is lost.
        """
        return self._connection.execute(query, values or {}).scalar()

    def offer_slots(self, queue: int, slots: int) -> None:
        """Offer to work on `slots` more runs of the queue with this id, until the session ends."""
        self._connection.execute(_OFFER, {"queue": queue, "slots": slots})

    def withdraw_slots(self, queue: int, slots: int) -> None:
        """Take back what `offer_slots` offered."""
        self._connection.execute(_WITHDRAW, {"queue": queue, "slots": slots})

    def fileno(self) -> int:
        """Of the session's socket."""
        driver: Any = self._connection.connection.dbapi_connection
        return driver.fileno()

    def is_held(self, lock: int) -> bool:
        """Whether any session holds `lock`."""
        query = sa.text(
            """
            SELECT EXISTS (
              SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND classid = (CAST(:key AS bigint) >> 32 & 4294967295)::oid
                AND objid = (CAST(:key AS bigint) & 4294967295)::oid)
            """
        )
        return bool(self._connection.execute(query, {"key": lock}).scalar())


# One shared lock a worker, on (queue id, slots): PostgreSQL lists it once for each session.
_OFFER = sa.text("SELECT pg_advisory_lock_shared(CAST(:queue AS int), CAST(:slots AS int))")
_WITHDRAW = sa.text("SELECT pg_advisory_unlock_shared(CAST(:queue AS int), CAST(:slots AS int))")
# What workers offer now, by queue id.
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
    """A signed 32-bit number for the workers that take runs of `queue` planned by `release`."""
    digest = hashlib.blake2b(f"{queue}\0{release}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big", signed=True)


def run_lock(run_id: str) -> int:
    return lock_id("run", run_id)


def daemon_lock() -> int:
    return lock_id("daemon")


def alerts_lock() -> int:
    return lock_id("alerts")


def projection_lock() -> int:
    return lock_id("projection")


def partition_lock(asset: str, key: str) -> int:
    return lock_id("partition", asset, key)
