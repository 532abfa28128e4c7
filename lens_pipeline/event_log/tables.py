"""Whether Dagster's tables are there. Only Dagster knows whether they are of its version."""

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from lens_pipeline.core import postgres
from lens_pipeline.core.endpoints import StackError
from lens_pipeline.errors import first_line

# One of each of Dagster's three storages.
_TABLES = ("runs", "event_logs", "job_ticks")
_REGCLASS = sa.text("SELECT to_regclass(:name)")


def has_tables(dagster_url: str) -> bool:
    """Raises StackError: the database cannot be reached."""
    try:
        with open_connection(dagster_url) as connection:
            return all(connection.scalar(_REGCLASS, {"name": table}) for table in _TABLES)
    except OperationalError as error:
        reason = first_line(error)
        is_absent = reason.endswith("does not exist") and 'database "' in reason
        fix = ": `lens migrate` creates it" if is_absent else ""
        raise StackError(
            f"Dagster's database (LENS_DAGSTER_URL) cannot be reached: {reason}{fix}"
        ) from error


def open_connection(url: str) -> sa.Connection:
    """A connection of its own, without a pool. Raises sqlalchemy.exc.OperationalError."""
    return postgres.connect(
        "lens-pipeline-tables", url, pool_size=0, isolation_level="AUTOCOMMIT"
    ).connect()
