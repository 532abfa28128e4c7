"""The connections of Dagster's storage."""

import select
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

# The daemon submits and dequeues from about ten threads; a worker's child needs two or three.
_POOL = {"pool_size": 4, "max_overflow": 20, "pool_recycle": 1800}
# A connection that rested longer than this is asked for a sign of life, seconds: a network may
# forget it without telling.
_RESTED_SECONDS = 30


def create_pool(postgres_url: str) -> sa.Engine:
    """An engine whose connections are looked at before use, so that no event is lost when the
    server has been restarted.

    A server that ended has closed its side, which shows without asking it. SQLAlchemy's
    `pool_pre_ping` would cost a round trip for each of the few statements of an event.
    """
    engine = sa.create_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 10, "application_name": "lens-pipeline-dagster"},
        **_POOL,
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
