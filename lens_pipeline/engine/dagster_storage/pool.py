"""A process's one connection pool for Dagster's storage."""

import functools
import os
import select
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

from lens_pipeline.core import postgres

# A network may forget a connection that rested longer.
_RESTED_SECONDS = 30
# A frozen process must not keep an asset's lock, for which others wait to store events.
_NO_IDLE_TRANSACTION = "SET idle_in_transaction_session_timeout = '20s'"


class PooledStorage:
    _engine: sa.Engine

    def optimize_for_webserver(
        self, statement_timeout: int, pool_recycle: int, max_overflow: int
    ) -> None:
        """Keep the pool; the stock storages make new ones. `statement_timeout`: milliseconds."""
        _limit_statements(self._engine, statement_timeout)


@functools.cache
def _limit_statements(engine: sa.Engine, milliseconds: int) -> None:
    @event.listens_for(engine, "connect")
    def limit(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {milliseconds}")


def shared_pool(postgres_url: str) -> sa.Engine:
    """Return this process's pool; a forked child has its own.

    Dagster makes a storage for every tick and plan: with a pool each, hundreds of connections stay.
    """
    return _pool_of_process(postgres_url, os.getpid())


# More than one only after a fork or in tests.
@functools.lru_cache(maxsize=2)
def _pool_of_process(postgres_url: str, _process: int) -> sa.Engine:
    return create_pool(postgres_url)


def create_pool(postgres_url: str) -> sa.Engine:
    """An engine that loses no event when the server restarts.

    It sees a closed connection without `pre_ping`, which costs a round trip for each event.
    """
    engine = postgres.connect(
        "lens-pipeline-dagster",
        postgres_url,
        # The daemon has ten threads; a worker's child needs two or three connections.
        pool_size=4,
        max_overflow=20,
        recycle_seconds=1800,
        pre_ping=False,
        isolation_level="AUTOCOMMIT",
        session_settings=_NO_IDLE_TRANSACTION,
    )
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", _require_alive)
    return engine


def _note_time(_connection: Any, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _require_alive(connection: Any, record: Any, _proxy: Any) -> None:
    """Raises DisconnectionError: SQLAlchemy connects anew."""
    now = time.monotonic()
    rested = now - record.info.get("rests_since", now)
    if _is_readable(connection):
        raise DisconnectionError("the server closed the connection")
    if rested > _RESTED_SECONDS:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except connection.OperationalError as error:
            raise DisconnectionError(str(error)) from error


def _is_readable(connection: Any) -> bool:
    """A server sends nothing at rest, unless it ends."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
