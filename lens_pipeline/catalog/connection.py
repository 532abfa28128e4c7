"""Connections to the application's database: session settings, unreadable values, errors."""

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import sqlalchemy as sa
from psycopg2 import extensions
from psycopg2.errors import LockNotAvailable, QueryCanceled, UndefinedTable
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, NoSuchTableError, OperationalError

from lens_pipeline.catalog.errors import CatalogError, MastersOff
from lens_pipeline.catalog.tables import READ
from lens_pipeline.core import postgres

# `timestamp with time zone` in pg_type.
_TIME_OID = 1184
_OF_MASTERS = [name for name in READ if name != "generations"]
_FIRST = dt.datetime.min.replace(tzinfo=dt.UTC)
_LAST = dt.datetime.max.replace(tzinfo=dt.UTC)


def connect(url: str) -> sa.Engine:
    engine = postgres.connect(
        "lens-pipeline", url, pool_size=2, max_overflow=8, json_deserializer=_json_or_text
    )
    event.listen(engine, "connect", _set_up)
    return engine


@contextmanager
def translated() -> Iterator[None]:
    """Raises CatalogError in place of the database's errors."""
    try:
        yield
    except NoSuchTableError as error:
        if str(error) in _OF_MASTERS:
            raise MastersOff.of([str(error)]) from error
        raise CatalogError(f"table {error} does not exist: run `lens migrate`") from error
    except OperationalError as error:
        is_late = isinstance(error.orig, QueryCanceled | LockNotAvailable)
        what = "took too long" if is_late else "cannot be reached"
        raise CatalogError(f"the application's database {what}: {first_line(error)}") from error
    except DBAPIError as error:
        absent = [name for name in _OF_MASTERS if f'"{name}"' in first_line(error)]
        if absent and isinstance(error.orig, UndefinedTable):
            raise MastersOff.of(absent) from error
        problem = f"the application's database refused a query: {first_line(error)}"
        raise CatalogError(problem) from error


def first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]


def _set_up(session: extensions.connection, _: object) -> None:
    extensions.register_type(extensions.new_type((_TIME_OID,), "ANY_TIME", _time), session)


def _time(text: str | bytes | None, reader: extensions.cursor) -> dt.datetime | None:
    """For `infinity` and years that Python lacks, its first or last time.

    Milliseconds taken for seconds give the year 58000; one such row must not hide all others.
    """
    if text is None:
        return None
    try:
        return extensions.PYDATETIMETZ(text, reader)
    except (ValueError, OverflowError, psycopg2.Error):
        return _FIRST if str(text).endswith("BC") else _LAST


def _json_or_text(text: str) -> Any:
    """`text` itself if it is nested too deep: one row must not hide all others."""
    try:
        return json.loads(text)
    except RecursionError:
        return text
