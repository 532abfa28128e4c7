"""Advisory locks in Dagster's database: they vanish with the process that holds them.

A run holds one for itself, which tells the daemon that its worker lives, and one for each partition
it works on, which keeps two runs from making the same output twice. PostgreSQL ties both to the
session, so a killed process or lost machine frees them without anyone's help. They need a session
of their own: a pooler in transaction mode (Supabase's port 6543) cannot hold them.
"""

import hashlib
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

# Seconds and probes: the server notices a vanished machine in half a minute instead of two hours.
# libpq's own settings of that name are about the client's side.
_KEEPALIVE = sa.text(
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4"
)


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
            connect_args={
                "connect_timeout": 10,
                "application_name": "lens-pipeline-locks",
            },
        )
        self._connection = self._engine.connect()
        self._connection.execute(_KEEPALIVE)

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

    def run_status(self, run_id: str) -> str | None:
        """The run's status in Dagster's words, None if the run is unknown.

        Raises sqlalchemy.exc.OperationalError if the session, and with it the locks, is lost.
        """
        query = sa.text("SELECT status FROM runs WHERE run_id = :run_id")
        return self._connection.execute(query, {"run_id": run_id}).scalar()

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


def run_lock(run_id: str) -> int:
    return lock_id("run", run_id)


def daemon_lock() -> int:
    return lock_id("daemon")


def partition_lock(asset: str, key: str) -> int:
    return lock_id("partition", asset, key)
