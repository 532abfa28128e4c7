"""The connections of Dagster's storage."""

import functools
import os
import select
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

from lens_pipeline.core import postgres
from lens_pipeline.core.postgres import connect_args, notice_lost_clients

# The daemon submits and dequeues from about ten threads; a worker's child needs two or three.
_POOL = {"pool_size": 4, "max_overflow": 20, "pool_recycle": 1800}
# A connection that rested longer than this is asked for a sign of life, seconds: a network may
# forget it without telling.
_RESTED_SECONDS = 30
# Whoever stores an event holds its asset's lock for milliseconds; a process that is stopped or
# frozen just then must not keep everybody else from storing theirs.
_NO_IDLE_TRANSACTION = "SET idle_in_transaction_session_timeout = '20s'"


def shared_pool(postgres_url: str) -> sa.Engine:
    """This process's one pool for a database.

    Dagster makes a storage for every tick and plan that the code server answers. With a pool of its
    own each left connections behind until they were collected as garbage: by the hundred when much
    was to be done, up to the server's limit. A forked child has another pool than its parent.
    """
    return _pool_of_process(postgres_url, os.getpid())


# More than one only where processes fork or, as in tests, have several databases.
@functools.lru_cache(maxsize=2)
def _pool_of_process(postgres_url: str, _process: int) -> sa.Engine:
    return create_pool(postgres_url)


def create_pool(postgres_url: str) -> sa.Engine:
    """An engine whose connections are looked at before use, so that no event is lost when the
    server has been restarted.

    A server that ended has closed its side, which shows without asking it. SQLAlchemy's
    `pool_pre_ping` would cost a round trip for each of the few statements of an event.
    """
    engine = sa.create_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        connect_args=connect_args("lens-pipeline-dagster"),
        **_POOL,
    )
    notice_lost_clients(engine, _NO_IDLE_TRANSACTION)
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", _require_alive)
    postgres.bound_sessions(engine)
    return engine


def _note_time(_connection: Any, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _require_alive(connection: Any, record: Any, _proxy: Any) -> None:
    """Raises DisconnectionError, for which SQLAlchemy makes a new connection."""
    now = time.monotonic()
    rested = now - record.info.get("rests_since", now)
    if _has_something_to_say(connection):
        raise DisconnectionError("the server closed the connection")
    if rested > _RESTED_SECONDS:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except connection.OperationalError as error:
            raise DisconnectionError(str(error)) from error


def _has_something_to_say(connection: Any) -> bool:
    """A server is silent towards a connection at rest, unless it ends."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
