"""Connections to PostgreSQL: how a lost peer is noticed, and how long an answer is waited for."""

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

# Seconds of silence, then probes; and how long sent data may stay unacknowledged. Each side gives
# up after 5 + 3 x 3 = 14 s, or 15 s with data on the way.
_IDLE, _INTERVAL, _COUNT = 5, 3, 3
_UNACKNOWLEDGED_MS = 15_000
GONE_SECONDS = 15.0
# The client's side: libpq.
_CLIENT = {
    "connect_timeout": 10,
    "keepalives_idle": _IDLE,
    "keepalives_interval": _INTERVAL,
    "keepalives_count": _COUNT,
    "tcp_user_timeout": _UNACKNOWLEDGED_MS,
}
# The server's side: settings of the session, which libpq's of the same names do not reach.
SERVER_SIDE = (
    f"SET tcp_keepalives_idle = {_IDLE}; SET tcp_keepalives_interval = {_INTERVAL};"
    f" SET tcp_keepalives_count = {_COUNT}; SET tcp_user_timeout = {_UNACKNOWLEDGED_MS}"
)


def connect_args(name: str) -> dict[str, Any]:
    """For `create_engine`; `name` is what `pg_stat_activity` shows."""
    return {**_CLIENT, "application_name": name}


def notice_lost_clients(engine: sa.Engine, *more: str) -> None:
    """Have the server end the sessions of clients that are gone; `more` settings go with it."""
    statement = "; ".join((SERVER_SIDE, *more))

    # Before SQLAlchemy's own first queries, which are in a transaction.
    @event.listens_for(engine, "connect", insert=True)
    def set_up(connection: Any, _record: Any) -> None:
        # In no transaction: a client that is lost just here must not leave one open.
        autocommit, connection.autocommit = connection.autocommit, True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.autocommit = autocommit


# The server itself ends a statement of ours after so long, also one that waits for a lock: it would
# not notice that nobody waits for it any more.
STATEMENT_SECONDS = 5
# Who comes late, such as after waiting for a thread, still gets what a server that works needs.
_LEAST_SECONDS = 0.2
# libpq keeps `connect_timeout` only where it waits itself.
_CONNECT_SECONDS = 10.0
_CONNECTED = (extensions.STATUS_READY, extensions.STATUS_BEGIN, extensions.STATUS_PREPARED)
_IS_BOUNDED = "lens_is_bounded"


class _Deadline:
    """A moment that can be put off, for everybody who looks at it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._at = time.monotonic() + self._seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._at - time.monotonic()


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Wait for databases so long at the most, all together; also on threads that are asked in here.

    What takes longer fails as it does without a server: psycopg2.OperationalError.
    """
    token = _deadline.set(_Deadline(seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def renew() -> None:
    """Begin anew to count, after something else was waited for."""
    deadline = _deadline.get()
    if deadline is not None:
        deadline.renew()


def is_set() -> bool:
    """Whether somebody waits for what is done here."""
    return _deadline.get() is not None


def install() -> None:
    """Keep deadlines in this process. Connections made before it may wait a little longer."""
    extensions.set_wait_callback(_wait)


def bound_transactions(engine: sa.Engine) -> None:
    """Have the server end what takes too long in transactions with a deadline."""
    event.listen(engine, "begin", _bound_transaction)


def bound_sessions(engine: sa.Engine) -> None:
    """As `bound_transactions`, for an engine without transactions and with sessions of its own."""
    event.listen(engine, "checkout", _bound_session)


def _bound_transaction(connection: sa.Connection) -> None:
    if is_set():
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")


def _bound_session(connection: Any, record: Any, _proxy: Any) -> None:
    """Raises DisconnectionError, for which SQLAlchemy makes a new connection."""
    wanted = is_set()
    if record.info.get(_IS_BOUNDED, False) is wanted:
        return
    bound = f"SET statement_timeout = '{STATEMENT_SECONDS}s'"
    try:
        with connection.cursor() as cursor:
            cursor.execute(bound if wanted else "RESET statement_timeout")
    except connection.OperationalError as error:
        raise DisconnectionError(str(error)) from error
    record.info[_IS_BOUNDED] = wanted


def _wait(connection: Any) -> None:
    """Wait until psycopg2 is done with what it does. An error closes the connection."""
    deadline = _deadline.get()
    seconds = None if deadline is None else max(deadline.left, _LEAST_SECONDS)
    if connection.status not in _CONNECTED:
        seconds = min(seconds or _CONNECT_SECONDS, _CONNECT_SECONDS)
    until = None if seconds is None else time.monotonic() + seconds
    while (state := connection.poll()) != extensions.POLL_OK:
        # Made anew: while connecting, one socket may be given up for another.
        poll = select.poll()
        wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        poll.register(connection.fileno(), wanted)
        left = None if until is None else max(until - time.monotonic(), 0.0) * 1000
        if not poll.poll(left):
            raise psycopg2.OperationalError("the server does not answer in time")
