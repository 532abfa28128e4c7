"""A process's one connection pool for Dagster's storage."""

import functools
import os
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from lens_pipeline.core import postgres
from lens_pipeline.engine import commands

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
    engine = postgres.connect(
        "lens-pipeline-dagster",
        postgres_url,
        # The daemon has ten threads; a worker's child needs two or three connections.
        pool_size=4,
        max_overflow=20,
        recycle_seconds=1800,
        isolation_level="AUTOCOMMIT",
        session_settings=_NO_IDLE_TRANSACTION,
    )
    if postgres_url == commands.UNRESOLVED:
        event.listen(engine, "do_connect", commands.find_server)
    return engine
