"""The application's tables as frozen rows. The application's SQL is here and nowhere else.

The pipeline reads these tables; a role that may only SELECT is enough.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, OperationalError

from lens_pipeline.failures import LensError
from lens_pipeline.partitions import KEY_PATTERN, key_problem

FINISHED = ("success", "succeeded", "completed")

_metadata = sa.MetaData()
_now = sa.func.now()
_time = sa.DateTime(timezone=True)

generations = sa.Table(
    "generations",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("asset_url", sa.Text),
    sa.Column("task_id", sa.Text, unique=True),
    sa.Column("created_at", _time, nullable=False, server_default=_now),
    sa.Column("updated_at", _time, server_default=_now),
)
# In the order that sensors page by; see `_finished_at`.
sa.Index(
    "generations_finished_at_id",
    sa.func.coalesce(generations.c.updated_at, generations.c.created_at),
    generations.c.id,
)
# Rows as another service of the same site may already have them: only these columns are read.
_READ = ("id", "user_id", "type", "status", "asset_url", "created_at", "updated_at")


# Row-level security is in force for this role, and no policy lets it read.
_NO_ROW_IS_VISIBLE = sa.text(
    """
    SELECT row_security_active('generations') AND NOT EXISTS (
      SELECT FROM pg_policy p
       WHERE p.polrelid = to_regclass('generations') AND p.polcmd IN ('r', '*')
         AND p.polpermissive
         AND EXISTS (SELECT FROM unnest(p.polroles) r
                      WHERE r = 0 OR pg_has_role(current_user, r, 'MEMBER')))
    """
)


class CatalogError(LensError):
    """The application's database cannot be used; the message says what to do."""


class Kind(StrEnum):
    PHOTO = "photo"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class Generation:
    """One finished photo or video."""

    id: str
    user_id: str
    kind: Kind
    asset_url: str
    finished_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class InvalidGeneration:
    """A row that cannot be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order (finished_at, id) that sensors page by."""

    finished_at: dt.datetime
    id: str


class Catalog:
    """Reads the application's tables. Safe to share between threads, not between processes."""

    def __init__(self, url: str) -> None:
        # pre_ping: a restarted server must not cost a failed tick or file.
        self._engine = sa.create_engine(
            url,
            pool_pre_ping=True,
            pool_size=2,
            max_overflow=8,
            connect_args={"connect_timeout": 10, "application_name": "lens-pipeline"},
        )
        event.listen(self._engine, "connect", _use_utc)
        self._id_is_uuid: bool | None = None

    def close(self) -> None:
        self._engine.dispose()

    def check(self) -> None:
        """Raise CatalogError, naming role, table or column, unless every needed read is allowed."""
        with self._connect() as connection:
            role, database = connection.execute(
                sa.text("SELECT current_user, current_database()")
            ).one()
            found = connection.execute(sa.text("SELECT to_regclass('generations')")).scalar()
            if found is None:
                raise CatalogError(
                    f"table generations does not exist in database {database}: run `lens migrate`"
                )
            columns = {
                column["name"] for column in sa.inspect(connection).get_columns("generations")
            }
            missing = [name for name in _READ if name not in columns]
            if missing:
                raise CatalogError(
                    f"table generations in database {database} lacks {', '.join(missing)}:"
                    " add the column or point LENS_DATABASE_URL at the right database"
                )
            allowed = connection.execute(
                sa.text(
                    "SELECT bool_and(has_column_privilege('generations', c, 'SELECT'))"
                    " FROM unnest(:c) c"
                ),
                {"c": list(_READ)},
            ).scalar()
            if not allowed:
                raise CatalogError(
                    f"role {role} may not SELECT from table generations:"
                    f" run GRANT SELECT ON generations TO {role}"
                )
            if connection.execute(_NO_ROW_IS_VISIBLE).scalar():
                raise CatalogError(
                    f"row-level security hides every row of generations from role {role}: run"
                    f" CREATE POLICY lens_reads ON generations FOR SELECT TO {role} USING (true)"
                )

    def migrate(self) -> list[str]:
        """Create the tables that are absent; never alter one that is there. Returns their names."""
        with self._connect() as connection:
            created = [
                table
                for table in _metadata.sorted_tables
                if connection.execute(
                    sa.text("SELECT to_regclass(:name)"), {"name": table.name}
                ).scalar()
                is None
            ]
            _metadata.create_all(connection, tables=created, checkfirst=False)
            connection.commit()
        return [table.name for table in created]

    def finished(self, kind: Kind, ids: Iterable[str]) -> dict[str, Generation | InvalidGeneration]:
        """The finished rows of `kind` among `ids`, by id; unknown, unfinished ones are absent."""
        wanted = self._bindable(ids)
        if not wanted:
            return {}
        query = self._select(kind).where(generations.c.status.in_(FINISHED), self._id_in(wanted))
        with self._connect() as connection:
            rows = connection.execute(query).all()
        return {row.id: _parse(row) for row in rows}

    def existing(self, kind: Kind, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that have a row of `kind`, finished or not."""
        wanted = self._bindable(ids)
        if not wanted:
            return set()
        query = sa.select(_id_text()).where(generations.c.type == kind.value, self._id_in(wanted))
        with self._connect() as connection:
            return set(connection.execute(query).scalars())

    def after(
        self, kind: Kind, position: Position | None, limit: int
    ) -> list[tuple[Position | None, Generation | InvalidGeneration]]:
        """The next `limit` finished rows of `kind` after `position`, oldest first.

        Each comes with its place; rows without any time come last and have none: a reader cannot
        page past them.
        """
        finished_at = _finished_at()
        query = (
            self._select(kind)
            .where(generations.c.status.in_(FINISHED))
            .order_by(finished_at.asc().nulls_last(), _id_text())
            .limit(limit)
        )
        if position is not None:
            query = query.where(sa.tuple_(finished_at, _id_text()) > _place(position))
        with self._connect() as connection:
            rows = connection.execute(query).all()
        return [
            (Position(row.finished_at, row.id) if row.finished_at else None, _parse(row))
            for row in rows
        ]

    def between(
        self, kind: Kind, since: dt.datetime, until: Position, limit: int
    ) -> list[Generation | InvalidGeneration]:
        """Up to `limit` finished rows of `kind` from `since` to the place `until`, newest first."""
        finished_at = _finished_at()
        query = (
            self._select(kind)
            .where(
                generations.c.status.in_(FINISHED),
                finished_at >= since,
                sa.tuple_(finished_at, _id_text()) <= _place(until),
            )
            .order_by(finished_at.desc(), _id_text().desc())
            .limit(limit)
        )
        with self._connect() as connection:
            rows = connection.execute(query).all()
        return [_parse(row) for row in rows]

    def all_finished(
        self, kind: Kind, page: int = 2000
    ) -> Iterator[list[Generation | InvalidGeneration]]:
        """Every finished row of `kind` in pages ordered by id; independent of `updated_at`."""
        last: str | None = None
        while True:
            query = (
                self._select(kind)
                .where(generations.c.status.in_(FINISHED))
                .order_by(generations.c.id)
                .limit(page)
            )
            if last is not None:
                query = query.where(generations.c.id > self._bound(last))
            with self._connect() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield [_parse(row) for row in rows]
            last = rows[-1].id

    def count_finished(self, kind: Kind, before: dt.datetime) -> int:
        """How many finished rows of `kind` are older than `before`."""
        query = sa.select(sa.func.count()).where(
            generations.c.type == kind.value,
            generations.c.status.in_(FINISHED),
            sa.func.coalesce(_finished_at(), before) <= before,
        )
        with self._connect() as connection:
            return connection.execute(query).scalar_one()

    def now(self) -> dt.datetime:
        """The database's clock, which also stamps the rows."""
        with self._connect() as connection:
            return connection.execute(sa.select(sa.func.now())).scalar_one()

    def invalid(self, limit: int = 1000) -> list[InvalidGeneration]:
        """Rows that look finished but can never be processed, with the reason."""
        lowered = sa.func.lower(sa.func.trim(generations.c.status))
        good_key = f"^{KEY_PATTERN.pattern}$"
        query = (
            self._select(None)
            .where(
                lowered.in_(FINISHED),
                sa.or_(
                    generations.c.status.not_in(FINISHED),
                    # A host's table may hold NULL here, which compares as neither.
                    generations.c.type.is_(None),
                    generations.c.user_id.is_(None),
                    generations.c.type.not_in([kind.value for kind in Kind]),
                    # PostgreSQL's $ does not match before a trailing newline, unlike Python's.
                    _id_text().op("!~")(good_key),
                    _text(generations.c.user_id).op("!~")(good_key),
                    _id_text().like("%..%"),
                    _text(generations.c.user_id).like("%..%"),
                ),
            )
            .order_by(_id_text())
            .limit(limit)
        )
        with self._connect() as connection:
            rows = connection.execute(query).all()
        return [found for found in map(_parse, rows) if isinstance(found, InvalidGeneration)]

    def problems(self, generation_id: str) -> list[str]:
        """Why each row with this id is not usable now: not finished, or never; empty if none is."""
        wanted = self._bindable([generation_id])
        if not wanted:
            return []
        with self._connect() as connection:
            rows = connection.execute(self._select(None).where(self._id_in(wanted))).all()
        return [problem for problem in map(_row_problem, rows) if problem]

    def add(self, generation_id: str, user_id: str, kind: Kind, asset_url: str) -> None:
        """Insert one finished generation."""
        statement = sa.insert(generations).values(
            id=self._bound(generation_id),
            user_id=user_id,
            type=kind.value,
            status=FINISHED[0],
            asset_url=asset_url,
            created_at=_now,
            updated_at=_now,
        )
        with self._connect() as connection:
            connection.execute(statement)
            connection.commit()

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except OperationalError as error:
            raise CatalogError(
                f"the application's database cannot be reached: {_first_line(error)}"
            ) from error
        except DBAPIError as error:
            raise CatalogError(
                f"the application's database refused a query: {_first_line(error)}"
            ) from error

    def _select(self, kind: Kind | None) -> sa.Select:
        query = sa.select(
            _id_text().label("id"),
            _text(generations.c.user_id).label("user_id"),
            generations.c.type.label("type"),
            generations.c.status.label("status"),
            generations.c.asset_url.label("asset_url"),
            _finished_at().label("finished_at"),
        )
        return query if kind is None else query.where(generations.c.type == kind.value)

    def _uuid_ids(self) -> bool:
        if self._id_is_uuid is None:
            with self._connect() as connection:
                columns = sa.inspect(connection).get_columns("generations")
            self._id_is_uuid = any(
                column["name"] == "id" and isinstance(column["type"], sa.Uuid) for column in columns
            )
        return self._id_is_uuid

    def _bound(self, value: str) -> sa.BindParameter | sa.Cast:
        bound = sa.bindparam(None, value, type_=sa.Text)
        return sa.cast(bound, postgresql.UUID) if self._uuid_ids() else bound

    def _bindable(self, ids: Iterable[str]) -> list[str]:
        """`ids` that can exist in the table at all: comparing text to a uuid column is an error."""
        return [value for value in ids if _is_uuid(value)] if self._uuid_ids() else list(ids)

    def _id_in(self, ids: Sequence[str]) -> sa.ColumnElement[bool]:
        kind = postgresql.UUID(as_uuid=False) if self._uuid_ids() else sa.Text()
        return generations.c.id == sa.any_(sa.cast(list(ids), postgresql.ARRAY(kind)))


def _text(column: sa.Column) -> sa.Cast:
    return sa.cast(column, sa.Text)


def _id_text() -> sa.Cast:
    return _text(generations.c.id)


def _use_utc(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _finished_at() -> sa.ColumnElement:
    """When a row finished. The cast only changes columns without time zone, read as UTC."""
    return sa.cast(sa.func.coalesce(generations.c.updated_at, generations.c.created_at), _time)


def _place(position: Position) -> sa.Tuple:
    return sa.tuple_(sa.literal(position.finished_at, _time), sa.literal(position.id, sa.Text))


def _is_uuid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]


def _parse(row: sa.Row) -> Generation | InvalidGeneration:
    problem = _row_problem(row)
    if problem:
        return InvalidGeneration(row.id, problem)
    return Generation(row.id, row.user_id, Kind(row.type), row.asset_url or "", row.finished_at)


def _row_problem(row: sa.Row) -> str | None:
    if row.status not in FINISHED:
        return f"status is {row.status!r}: finished rows have {', '.join(FINISHED)}, in lower case"
    if row.type not in {kind.value for kind in Kind}:
        return f"type is {row.type!r}: only photo and video are known"
    return key_problem("id", row.id) or key_problem("user_id", row.user_id or "")
