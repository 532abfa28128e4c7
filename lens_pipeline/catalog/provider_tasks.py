"""Writes what the provider made of a task into its row of `generations`.

Needs the right to UPDATE three columns; whoever only reads needs nothing of this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lens_pipeline.catalog.errors import (
    CatalogError,
    NoRightToWrite,
    is_by_policy,
    is_refusal,
)
from lens_pipeline.catalog.row_types import GenerationRows, IdColumn, as_text
from lens_pipeline.catalog.rows import FINISHED, Generation, UnusableRow
from lens_pipeline.catalog.tables import generations

FAILED = "failed"
_WRITTEN = ("status", "asset_url", "updated_at")
# Whoever holds the row for longer keeps the provider waiting.
_BEGIN = sa.text("SELECT current_user, set_config('lock_timeout', '5s', true)")
# Row-level security is in force for this role, and no policy lets it update.
_NO_ROW_IS_WRITABLE = sa.text(
    """
    SELECT row_security_active('generations') AND NOT EXISTS (
      SELECT FROM pg_policy p
       WHERE p.polrelid = to_regclass('generations') AND p.polcmd IN ('w', '*')
         AND p.polpermissive
         AND EXISTS (SELECT FROM unnest(p.polroles) r
                      WHERE r = 0 OR pg_has_role(current_user, r, 'MEMBER')))
    """
)
# A partial index serves if it only leaves out rows without a task.
_TASKS_ARE_INDEXED = sa.text(
    """
    SELECT EXISTS (
      SELECT FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
       WHERE i.indrelid = to_regclass('generations') AND a.attname = 'task_id' AND i.indisvalid
         AND (i.indpred IS NULL
              OR pg_get_expr(i.indpred, i.indrelid) = '(task_id IS NOT NULL)'))
    """
)
_MAY = sa.text(
    "SELECT bool_and(has_column_privilege('generations', c, 'UPDATE'))"
    "   AND has_column_privilege('generations', 'task_id', 'SELECT') FROM unnest(:c) c"
)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """The row that a task of the provider's is for."""

    id: str
    user_id: str
    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row after what was said of its task was written."""

    changed: bool
    status: str
    generation: Generation | None
    """What its derivative is made from; None unless it is finished and usable."""
    problem: str | None
    """Why a finished row can never be used."""


class TaskRows:
    """Finds rows by task, and writes them."""

    def __init__(self, rows: GenerationRows) -> None:
        self._rows = rows
        self._task = IdColumn(generations.c.task_id)

    def of(self, connection: sa.Connection, task_id: str) -> list[TaskRow]:
        """The rows of a task: one, unless the host's table allows more."""
        if not self._task.bindable(connection, [task_id]):
            return []
        query = sa.select(
            self._rows.key.text.label("id"),
            as_text(generations.c.user_id).label("user_id"),
            generations.c.status,
        ).where(generations.c.task_id == self._task.bound(connection, task_id))
        return [
            TaskRow(row.id, row.user_id or "", task_id, row.status or "")
            for row in connection.execute(query)
        ]

    def record(
        self, connection: sa.Connection, row: TaskRow, asset_url: str | None
    ) -> Recorded | None:
        """Make the row finished with this URL, or failed if there is none; the row stays locked.

        A row that is finished stays as it is: its site may have moved the file since. Returns None
        if the row is gone. Raises NoRightToWrite.
        """
        role: str = connection.execute(_BEGIN).one()[0]
        is_row = sa.and_(
            self._rows.key.among(connection, [row.id]),
            generations.c.task_id == self._task.bound(connection, row.task_id),
        )
        with _named(role):
            query = sa.select(self._rows.key.text).where(is_row)
            if connection.execute(query.with_for_update()).first() is None:
                if connection.execute(query).first() is None:
                    return None
                raise NoRightToWrite(_policy(role))
            changed = connection.execute(_update(asset_url).where(is_row)).rowcount > 0
        found = connection.execute(self._rows.select().where(is_row)).all()
        (parsed,) = self._rows.parse(connection, found)
        is_finished = found[0].status in FINISHED
        return Recorded(
            changed,
            found[0].status,
            parsed if is_finished and isinstance(parsed, Generation) else None,
            parsed.reason if is_finished and isinstance(parsed, UnusableRow) else None,
        )


def check_right(connection: sa.Connection) -> None:
    """Raise CatalogError, with the fix, unless this role may do what `TaskRows` does."""
    role = connection.execute(sa.text("SELECT current_user")).scalar_one()
    columns = {column["name"] for column in sa.inspect(connection).get_columns("generations")}
    if "task_id" not in columns:
        raise CatalogError(
            "table generations lacks task_id, by which the provider's tasks are found:"
            " run ALTER TABLE generations ADD COLUMN task_id text UNIQUE"
        )
    if not connection.execute(_MAY, {"c": list(_WRITTEN)}).scalar():
        raise NoRightToWrite(_grant(role))
    if connection.execute(_NO_ROW_IS_WRITABLE).scalar():
        raise NoRightToWrite(_policy(role))
    if not connection.execute(_TASKS_ARE_INDEXED).scalar():
        raise CatalogError(
            "generations.task_id has no index, so that each webhook reads the whole table (leave"
            " out UNIQUE if a task may have several rows): run CREATE UNIQUE INDEX CONCURRENTLY"
            " generations_task_id ON generations (task_id)"
        )


def _update(asset_url: str | None) -> sa.Update:
    status = generations.c.status
    unfinished = sa.or_(status.is_(None), status.not_in(FINISHED))
    update = sa.update(generations)
    if asset_url is None:
        return update.values(status=FAILED, updated_at=sa.func.now()).where(
            unfinished, status.is_distinct_from(FAILED)
        )
    without_file = sa.func.coalesce(generations.c.asset_url, "") == ""
    return update.values(status=FINISHED[0], asset_url=asset_url, updated_at=sa.func.now()).where(
        sa.or_(unfinished, without_file)
    )


@contextmanager
def _named(role: str) -> Iterator[None]:
    """Tell a refusal from other errors. Raises NoRightToWrite."""
    try:
        yield
    except DBAPIError as error:
        if not is_refusal(error):
            raise
        raise NoRightToWrite(_policy(role) if is_by_policy(error) else _grant(role)) from error


def _grant(role: str) -> str:
    return (
        f"role {role} may not write what the provider says into generations: run"
        f" GRANT SELECT (task_id), UPDATE ({', '.join(_WRITTEN)}) ON generations TO {role}"
    )


def _policy(role: str) -> str:
    return (
        f"row-level security keeps role {role} from writing generations: run"
        f" CREATE POLICY lens_writes ON generations FOR UPDATE TO {role} USING (true)"
    )
