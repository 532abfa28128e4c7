"""Connections to PostgreSQL: every engine, and deadlines for answers. No statement on a table."""

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import NullPool

# Each side gives up after 5 + 3 x 3 = 14 s of silence, or 15 s with unacknowledged data.
_IDLE, _INTERVAL, _COUNT = 5, 3, 3
_UNACKNOWLEDGED_MS = 15_000
_CLIENT = {
    "keepalives_idle": _IDLE,
    "keepalives_interval": _INTERVAL,
    "keepalives_count": _COUNT,
    "tcp_user_timeout": _UNACKNOWLEDGED_MS,
}
# Dagster takes its columns without a time zone for UTC, and the server fills them in the session's.
SESSION_SETTINGS = (
    "SET TIME ZONE 'UTC';"
    f" SET tcp_keepalives_idle = {_IDLE}; SET tcp_keepalives_interval = {_INTERVAL};"
    f" SET tcp_keepalives_count = {_COUNT}; SET tcp_user_timeout = {_UNACKNOWLEDGED_MS}"
)

# The server ends statements itself: it does not notice that the client has given up.
STATEMENT_SECONDS = 5
# For a healthy server.
_MIN_SECONDS = 0.2
# libpq keeps `connect_timeout` only where it waits itself.
_CONNECT_SECONDS = 10
_CONNECTED = (extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED)
_IS_BOUNDED = "lens_is_bounded"
# A network may forget a connection that rested longer.
_RESTED_SECONDS = 30
_RESTS_SINCE = "lens_rests_since"


def connect(
    name: str,
    url: str,
    *,
    pool_size: int = 1,
    max_overflow: int = 3,
    recycle_seconds: int = -1,
    isolation_level: Any = None,
    connect_seconds: int = _CONNECT_SECONDS,
    session_settings: str = "",
    json_deserializer: Callable[[str], Any] | None = None,
) -> sa.Engine:
    """An engine in UTC whose two sides notice a lost peer within 15 s, and keep `deadline`.

    `pool_size=0`: no pool. A restarted server must not cost a failed tick, file or event: see
    `_require_alive`. Behind a pooler, which keeps its clients' connections, it may cost one.
    """
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size:
        pool = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "pool_recycle": recycle_seconds,
        }
    if isolation_level:
        pool["isolation_level"] = isolation_level
    engine = sa.create_engine(
        url,
        json_deserializer=json_deserializer,
        # Else each new connection looks for the type.
        use_native_hstore=False,
        connect_args={**_CLIENT, "connect_timeout": connect_seconds, "application_name": name},
        **pool,
    )
    _set_up_sessions(engine, "; ".join(filter(None, (SESSION_SETTINGS, session_settings))))
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", _require_alive)
    if isolation_level == "AUTOCOMMIT":
        event.listen(engine, "checkout", _bound_session)
    else:
        # A pooler in transaction mode may give the session to another client.
        event.listen(engine, "begin", _bound_transaction)
    return engine


def _set_up_sessions(engine: sa.Engine, settings: str) -> None:
    # Before SQLAlchemy's own first queries, which are in a transaction.
    @event.listens_for(engine, "connect", insert=True)
    def set_up(connection: Any, _record: Any) -> None:
        # A client lost just here must leave no transaction open.
        autocommit, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute(settings)
        connection.autocommit = autocommit


def _note_time(_connection: Any, record: Any) -> None:
    record.info[_RESTS_SINCE] = time.monotonic()


def _require_alive(connection: Any, record: Any, _proxy: Any) -> None:
    """Raises DisconnectionError: SQLAlchemy connects anew.

    A closed connection is seen without a question: SQLAlchemy's `pool_pre_ping` was a third of the
    transactions of a stack at rest, and a round trip for each event.
    """
    now = time.monotonic()
    rested = now - record.info.get(_RESTS_SINCE, now)
    if _is_readable(connection):
        raise DisconnectionError("the server closed the connection")
    if rested > _RESTED_SECONDS:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
        except (connection.OperationalError, connection.InterfaceError) as error:
            raise DisconnectionError(str(error)) from error


def _is_readable(connection: Any) -> bool:
    """A server sends nothing at rest, unless it ends."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _bound_transaction(connection: sa.Connection) -> None:
    if has_deadline():
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")


def _bound_session(connection: Any, record: Any, _proxy: Any) -> None:
    """Raises DisconnectionError: SQLAlchemy connects anew."""
    wanted = has_deadline()
    if record.info.get(_IS_BOUNDED, False) is wanted:
        return
    bound = f"SET statement_timeout = '{STATEMENT_SECONDS}s'"
    try:
        with connection.cursor() as cursor:
            cursor.execute(bound if wanted else "RESET statement_timeout")
    except connection.OperationalError as error:
        raise DisconnectionError(str(error)) from error
    record.info[_IS_BOUNDED] = wanted


class _Deadline:
    """Threads that copied the context share it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._at = time.monotonic() + self._seconds

    @property
    def seconds_left(self) -> float:
        return self._at - time.monotonic()


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Database waits of the block, also on its threads, end after `seconds` in all.

    They raise psycopg2.OperationalError. Without `enforce_deadlines` only the server ends them.
    """
    token = _deadline.set(_Deadline(seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def restart_deadline() -> None:
    """Count its seconds anew, after a wait for something else."""
    if (current := _deadline.get()) is not None:
        current.restart()


def has_deadline() -> bool:
    return _deadline.get() is not None


def enforce_deadlines() -> None:
    """Keep deadlines in this process; earlier connections may wait longer."""
    extensions.set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    """An error closes the connection."""
    current = _deadline.get()
    seconds = None if current is None else max(current.seconds_left, _MIN_SECONDS)
    if connection.status not in _CONNECTED:
        seconds = min(seconds or _CONNECT_SECONDS, _CONNECT_SECONDS)
    until = None if seconds is None else time.monotonic() + seconds
    while (state := connection.poll()) != extensions.POLL_OK:
        # Made anew: libpq may change sockets while it connects.
        poll = select.poll()
        wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        poll.register(connection.fileno(), wanted)
        left = None if until is None else max(until - time.monotonic(), 0.0) * 1000
        if not poll.poll(left):
            raise psycopg2.OperationalError("the server does not answer in time")
