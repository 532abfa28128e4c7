"""How both sides of a database connection notice within seconds that the other is gone.

A host that is cut off sends nothing, not even that it ends: without this its sessions, with the
locks and transactions they hold, stay for two hours, and a query of its own waits for ever.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

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
