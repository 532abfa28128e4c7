"""Times that PostgreSQL holds and Python cannot: read as the first or last one that it can.

A site that takes milliseconds for seconds writes the year 58000; one such row must not keep all
others from being read. `infinity` comes out of psycopg2 like this as well.
"""

import datetime as dt

import psycopg2
from psycopg2.extensions import PYDATETIMETZ, connection, cursor, new_type, register_type

# Of `timestamp with time zone`, in pg_type.
_OID = 1184

_FIRST = dt.datetime.min.replace(tzinfo=dt.UTC)
_LAST = dt.datetime.max.replace(tzinfo=dt.UTC)


def read_any_time(session: connection) -> None:
    """Let no time be a fault in what this session reads."""
    register_type(new_type((_OID,), "ANY_TIME", _time), session)


def _time(text: str | bytes | None, reader: cursor) -> dt.datetime | None:
    if text is None:
        return None
    try:
        return PYDATETIMETZ(text, reader)
    except (ValueError, OverflowError, psycopg2.Error):
        return _FIRST if str(text).endswith("BC") else _LAST
