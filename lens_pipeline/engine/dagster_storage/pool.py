"""The one connection pool of a process for Dagster's storage."""

import functools
import os
import select
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

from lens_pipeline.core import postgres

# A connection that rested for longer is asked for a sign of life: a network may forget it.
_RESTED_SECONDS = 30
# A process that is frozen while it holds an asset's lock must not keep others from storing events.
_NO_IDLE_TRANSACTION = "SET idle_in_transaction_session_timeout = '20s'"


class PooledStorage:
    """What the three storages share: none leaves the pool."""

    _engine: sa.Engine

    def optimize_for_webserver(
        self, statement_timeout: int, pool_recycle: int, max_overflow: int
    ) -> None:
        """Limit statements to `statement_timeout` milliseconds; the stock storages make pools."""
        _limit_statements(self._engine, statement_timeout)


@functools.cache
def _limit_statements(engine: sa.Engine, milliseconds: int) -> None:
    @event.listens_for(engine, "connect")
    def limit(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {milliseconds}")


def shared_pool(postgres_url: str) -> sa.Engine:
    """This process's pool for a database; a forked child has its own.

    Dagster makes a storage for every tick and plan that the code server answers. With a pool each,
    hundreds of connections stay until they are collected as garbage.
    """
    return _pool_of_process(postgres_url, os.getpid())


# More than one only after a fork or, in tests, for several databases.
@functools.lru_cache(maxsize=2)
def _pool_of_process(postgres_url: str, _process: int) -> sa.Engine:
    return create_pool(postgres_url)


def create_pool(postgres_url: str) -> sa.Engine:
    """An engine that loses no event when the server was restarted.

    A server that ended has closed its side, which shows without a `pre_ping`: that would cost a
    round trip for each of the few statements of an event.
    """
    engine = postgres.connect(
        "lens-pipeline-dagster",
        postgres_url,
        # The daemon has about ten threads; a worker's child needs two or three connections.
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
    """Raises DisconnectionError, for which SQLAlchemy makes a new connection."""
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
    """A server sends nothing on a connection at rest, unless it ends."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
