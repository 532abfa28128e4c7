"""Results of providers' tasks, written into their rows of `generations`."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from lens_pipeline.catalog import permissions
from lens_pipeline.catalog.generations import GenerationRows
from lens_pipeline.catalog.row_types import IdColumn, text_of
from lens_pipeline.catalog.rows import FINISHED, Generation, UnusableRow, known_time
from lens_pipeline.catalog.tables import generations

FAILED = "failed"
# What sites write where nothing more is to come.
_GIVEN_UP = (FAILED, "fail", "failure", "error", "cancelled", "canceled")
# Providers keep a task for a while only; kie.ai for 14 days.
_LONGEST = dt.timedelta(days=14)
# The provider's request waits for this lock.
_LIMIT_LOCK = sa.text("SET LOCAL lock_timeout = '5s'")


@dataclass(frozen=True, slots=True)
class TaskRow:
    id: str
    user_id: str
    task_id: str
    status: str
    provider: str | None = None
    """As the row says it, with a model after a slash; None: its table or the row does not."""
    changed_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row after its task's result was written."""

    changed: bool
    status: str
    generation: Generation | None
    """None unless the row is finished and usable."""
    problem: str | None
    """Why a finished row can never be used."""


class TaskRows:
    def __init__(self, rows: GenerationRows) -> None:
        self._rows = rows
        self._task = IdColumn(generations.c.task_id)

    def of(self, connection: sa.Connection, task_id: str) -> list[TaskRow]:
        """One row, unless the host's table allows more; in the order of ids."""
        if not self._task.bindable(connection, [task_id]):
            return []
        query = self._select(connection).where(self._task.equals(connection, task_id))
        query = query.order_by(self._rows.key.text)
        return _task_rows(connection, query)

    def of_row(self, connection: sa.Connection, row_id: str) -> TaskRow | None:
        """None: the row has no task, or is gone."""
        is_row = self._rows.key.equals(connection, row_id)
        query = self._select(connection).where(is_row, generations.c.task_id.is_not(None))
        return next(iter(_task_rows(connection, query)), None)

    def unfinished(
        self,
        connection: sa.Connection,
        since: dt.datetime | None,
        until: dt.datetime,
        known: Collection[str],
        most: int,
    ) -> list[TaskRow]:
        """Rows of tasks that may still end: `known` ones, and those that changed in the span.

        `since` None: of all the time for which providers keep tasks.
        """
        status = sa.func.lower(sa.func.trim(generations.c.status))
        is_new = self._rows.time.between(since or until - _LONGEST, until)
        is_known = self._rows.key.among(connection, self._rows.key.bindable(connection, known))
        may_end = sa.and_(
            generations.c.task_id.is_not(None),
            self._rows.belongs,
            sa.or_(generations.c.status.is_(None), status.not_in([*FINISHED, *_GIVEN_UP])),
            self._rows.time.between(until - _LONGEST, until),
        )
        # Two queries: each has an index.
        found = {
            row.id: row
            for condition in (is_new, is_known)
            for row in _task_rows(
                connection, self._select(connection).where(may_end, condition).limit(most)
            )
        }
        return list(found.values())

    def _select(self, connection: sa.Connection) -> sa.Select:
        return sa.select(
            self._rows.key.text.label("id"),
            text_of(generations.c.user_id),
            text_of(generations.c.task_id),
            generations.c.status,
            _provider(connection).label("provider"),
            self._rows.time.label("changed_at"),
        )

    def record(
        self, connection: sa.Connection, row: TaskRow, asset_url: str | None
    ) -> Recorded | None:
        """Lock the row and make it finished, or failed without a URL. None: it is gone.

        A finished row stays as it is: its site may have moved the file. Raises NoRightToWrite.
        """
        connection.execute(_LIMIT_LOCK)
        is_row = sa.and_(
            self._rows.key.equals(connection, row.id), self._task.equals(connection, row.task_id)
        )
        with permissions.refusal_explained(connection, "UPDATE", generations):
            query = sa.select(self._rows.key.text).where(is_row)
            if connection.execute(query.with_for_update()).first() is None:
                if connection.execute(query).first() is None:
                    return None
                raise permissions.no_right(connection, "UPDATE", generations, by_policy=True)
            changed = connection.execute(self._update(asset_url).where(is_row)).rowcount > 0
        found = connection.execute(self._rows.select().where(is_row)).all()
        (parsed,) = self._rows.parse(connection, found)
        is_finished = found[0].status in FINISHED
        return Recorded(
            changed,
            found[0].status,
            parsed if is_finished and isinstance(parsed, Generation) else None,
            parsed.reason if is_finished and isinstance(parsed, UnusableRow) else None,
        )

    def _update(self, asset_url: str | None) -> sa.Update:
        status = generations.c.status
        unfinished = sa.or_(status.is_(None), status.not_in(FINISHED))
        update = sa.update(generations)
        if asset_url is None:
            return update.values(status=FAILED, updated_at=sa.func.now()).where(
                unfinished, status.is_distinct_from(FAILED)
            )
        values = {"status": FINISHED[0], "asset_url": asset_url, "updated_at": sa.func.now()}
        without_file = sa.func.coalesce(self._rows.source, "") == ""
        return update.values(values).where(sa.or_(unfinished, without_file))


def _task_rows(connection: sa.Connection, query: sa.Select) -> list[TaskRow]:
    return [
        TaskRow(
            row.id,
            row.user_id or "",
            row.task_id,
            row.status or "",
            row.provider,
            known_time(row.changed_at),
        )
        for row in connection.execute(query)
    ]


def _provider(connection: sa.Connection) -> sa.ColumnElement:
    """The optional column; NULL where there is none, or we may not read it."""
    exists = sa.text(
        "SELECT has_column_privilege(attrelid, attnum, 'SELECT') FROM pg_attribute"
        " WHERE attrelid = to_regclass('generations') AND attname = 'provider'"
        " AND NOT attisdropped"
    )
    if not connection.scalar(exists):
        return sa.null()
    return sa.cast(sa.literal_column("generations.provider"), sa.Text)
