"""The application's tables; for all but what people and the provider ask for, SELECT is enough."""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from psycopg2.errors import LockNotAvailable, QueryCanceled
from sqlalchemy import event
from sqlalchemy.exc import DataError, DBAPIError, NoSuchTableError, OperationalError

from lens_pipeline.catalog import permissions, projects, provider_tasks, status_view
from lens_pipeline.catalog.errors import (
    CatalogError,
    is_by_policy,
    is_refusal,
)
from lens_pipeline.catalog.generations import (
    ListedGeneration,
    Place,
    Selection,
    read_page,
    read_rows,
)
from lens_pipeline.catalog.projects import read_project_ids
from lens_pipeline.catalog.row_types import (
    AssetRows,
    GenerationRows,
    IdColumn,
    MasterRows,
    RowSet,
    ScaledRows,
)
from lens_pipeline.catalog.rows import FINISHED, Kind, Position, Row, UnusableRow
from lens_pipeline.catalog.tables import (
    READ,
    TIME,
    generations,
    master_videos,
    metadata,
    project_assets,
)
from lens_pipeline.catalog.timestamps import read_any_time
from lens_pipeline.core import postgres
from lens_pipeline.errors import InvalidRow

# Row-level security is in force for this role, and no policy lets it read.
_NO_ROW_IS_VISIBLE = sa.text(
    """
    SELECT row_security_active(:name) AND NOT EXISTS (
      SELECT FROM pg_policy p
       WHERE p.polrelid = to_regclass(:name) AND p.polcmd IN ('r', '*')
         AND p.polpermissive
         AND EXISTS (SELECT FROM unnest(p.polroles) r
                      WHERE r = 0 OR pg_has_role(current_user, r, 'MEMBER')))
    """
)


class Catalog:
    """Reads the application's tables, and adds what people ask for.

    Safe to share between threads, not between processes.
    """

    def __init__(self, url: str) -> None:
        self._engine = postgres.connect(
            "lens-pipeline", url, pool_size=2, max_overflow=8, json_deserializer=_json_or_text
        )
        event.listen(self._engine, "connect", _use_utc)
        event.listen(self._engine, "connect", lambda session, _: read_any_time(session))
        self._generation_key = IdColumn(generations.c.id)
        masters = MasterRows(self._generation_key)
        photos = GenerationRows(Kind.PHOTO, self._generation_key)
        self._tasks = provider_tasks.TaskRows(photos)
        self._rows: dict[Kind, RowSet] = {
            Kind.PHOTO: photos,
            Kind.VIDEO: GenerationRows(Kind.VIDEO, self._generation_key),
            Kind.MASTER: masters,
            Kind.SCALED: ScaledRows(masters),
            Kind.SHOT: AssetRows(masters),
        }
        self._projects = {
            kind: projects.ProjectRows(kind, self._rows[kind])
            for kind in (Kind.MASTER, Kind.SCALED, Kind.SHOT)
        }

    def close(self) -> None:
        self._engine.dispose()

    def check(self) -> None:
        """Raise CatalogError, naming role, table or column, unless every needed read is allowed."""
        with self._connect() as connection:
            for table, columns in READ.items():
                _check_table(connection, table, columns)

    def migrate(self) -> list[str]:
        """Create the tables that are absent; never alter one that is there. Returns their names."""
        with self._connect() as connection:
            created = [
                table
                for table in metadata.sorted_tables
                if connection.execute(
                    sa.text("SELECT to_regclass(:name)"), {"name": table.name}
                ).scalar()
                is None
            ]
            metadata.create_all(connection, tables=created, checkfirst=False)
            connection.commit()
        return [table.name for table in created]

    def create_view(self) -> list[str]:
        """Create `lens_generations` and its table where absent. Returns their names.

        Raises CatalogError: this role may not. Everything else works without them.
        """
        with self._connect() as connection:
            created = status_view.create(connection)
            connection.commit()
        return created

    def may_write_view(self) -> bool:
        """Whether `lens_generations` is there, and this role may keep it true."""
        with self._connect() as connection:
            return status_view.may_write(connection)

    def project(
        self, asset: str, rows: Iterable[status_view.Projected], gone: Iterable[str]
    ) -> int:
        """Have `lens_generations` show these rows, and nothing of those `gone`.

        Returns how many it showed otherwise.
        """
        wanted = {row.id: row for row in rows}
        dropped = list(gone)
        with self._connect() as connection:
            shown = status_view.read(connection, asset, [*wanted, *dropped])
            changed = [row for row in wanted.values() if not row.shows_as(shown.get(row.id))]
            dropped = [key for key in dropped if key in shown]
            status_view.write(connection, asset, changed)
            if dropped:
                status_view.delete(connection, asset, dropped)
            connection.commit()
        return len(changed) + len(dropped)

    def drop_orphans(self) -> int:
        """Take what is gone or unfinished out of the projection; returns how many rows."""
        with self._connect() as connection:
            count = status_view.delete_orphans(connection, FINISHED)
            connection.commit()
        return count

    def finished(self, kind: Kind, ids: Iterable[str]) -> dict[str, Row | UnusableRow]:
        """The finished rows of `kind` among `ids`, by id; unknown, unfinished ones are absent."""
        with self._connect() as connection:
            return self._rows[kind].by_id(connection, ids)

    def existing(self, kind: Kind, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that have a row of `kind`, finished or not."""
        rows = self._rows[kind]
        with self._connect() as connection:
            wanted = rows.key.bindable(connection, ids)
            if not wanted:
                return set()
            among = rows.key.among(connection, wanted)
            query = sa.select(rows.key.text).where(rows.belongs, among)
            return set(connection.execute(query).scalars())

    def after(
        self, kind: Kind, position: Position | None, limit: int
    ) -> list[tuple[Position | None, Row | UnusableRow]]:
        """The next `limit` finished rows of `kind` after `position`, oldest first.

        Each comes with its place; rows without any time come last and have none: a reader cannot
        page past them.
        """
        rows = self._rows[kind]
        query = (
            rows.select()
            .where(rows.counts)
            .order_by(rows.time.asc().nulls_last(), rows.key.text)
            .limit(limit)
        )
        if position is not None:
            query = query.where(sa.tuple_(rows.time, rows.key.text) > _place(position))
        with self._connect() as connection:
            found = connection.execute(query).all()
            parsed = rows.parse(connection, found)
        places = [Position(row.changed_at, row.id) if row.changed_at else None for row in found]
        return list(zip(places, parsed, strict=True))

    def waiting_after(
        self, kind: Kind, position: Position | None, oldest: int, newest: int
    ) -> list[tuple[str, str]]:
        """Ids and owners of the `oldest` first finished rows of `kind` after `position`, and of the
        `newest` last ones if there are more; oldest first, without the rest of the rows.
        """
        rows = self._rows[kind]
        query = sa.select(rows.key.text.label("id"), rows.owner.label("owner")).where(rows.counts)
        if position is not None:
            query = query.where(sa.tuple_(rows.time, rows.key.text) > _place(position))
        first = query.order_by(rows.time.asc().nulls_last(), rows.key.text).limit(oldest)
        last = query.order_by(rows.time.desc(), rows.key.text.desc()).limit(newest)
        with self._connect() as connection:
            found = list(connection.execute(first))
            if len(found) == oldest:
                found += reversed(connection.execute(last).all())
        return list({row.id: (row.id, row.owner or "") for row in found}.values())

    def between(
        self, kind: Kind, since: dt.datetime, until: Position, limit: int
    ) -> list[Row | UnusableRow]:
        """Up to `limit` finished rows of `kind` from `since` to the place `until`, newest first."""
        rows = self._rows[kind]
        query = (
            rows.select()
            .where(
                rows.counts,
                rows.time >= since,
                sa.tuple_(rows.time, rows.key.text) <= _place(until),
            )
            .order_by(rows.time.desc(), rows.key.text.desc())
            .limit(limit)
        )
        with self._connect() as connection:
            return rows.parse(connection, connection.execute(query).all())

    def all_finished(self, kind: Kind, page: int = 2000) -> Iterator[list[Row | UnusableRow]]:
        """Every finished row of `kind` in pages ordered by id; independent of the rows' times."""
        rows = self._rows[kind]
        last: str | None = None
        while True:
            query = rows.select().where(rows.counts).order_by(rows.key.column).limit(page)
            with self._connect() as connection:
                if last is not None:
                    query = query.where(rows.key.column > rows.key.bound(connection, last))
                found = rows.parse(connection, connection.execute(query).all())
            if not found:
                return
            yield found
            last = found[-1].id

    def count_finished(self, kind: Kind, before: dt.datetime) -> int:
        """How many finished rows of `kind` are older than `before`."""
        rows = self._rows[kind]
        query = (
            sa.select(sa.func.count())
            .select_from(rows.key.column.table)
            .where(rows.counts, sa.func.coalesce(rows.time, before) <= before)
        )
        with self._connect() as connection:
            return connection.execute(query).scalar_one()

    def now(self) -> dt.datetime:
        """The database's clock, which also stamps the rows."""
        with self._connect() as connection:
            return connection.execute(sa.select(sa.func.now())).scalar_one()

    def invalid(self, limit: int = 1000) -> list[UnusableRow]:
        """Up to `limit` rows of each table that look finished but can never be processed."""
        found: list[Row | UnusableRow] = []
        with self._connect() as connection:
            # Photos and videos share a table.
            for kind in (Kind.PHOTO, Kind.MASTER, Kind.SCALED):
                rows = self._rows[kind]
                query = rows.select().where(rows.unusable).order_by(rows.key.text).limit(limit)
                found += rows.parse(connection, connection.execute(query).all())
        return [row for row in found if isinstance(row, UnusableRow)]

    def problems(self, row_id: str) -> list[str]:
        """Why each row with this id is not usable now: not finished, or never; empty if none is."""
        found: list[Row | UnusableRow] = []
        with self._connect() as connection:
            for kind in (Kind.PHOTO, Kind.MASTER, Kind.SCALED):
                rows = self._rows[kind]
                wanted = rows.key.bindable(connection, [row_id])
                if wanted:
                    query = rows.select().where(rows.key.among(connection, wanted))
                    found += rows.parse(connection, connection.execute(query).all())
        return [row.reason for row in found if isinstance(row, UnusableRow)]

    def library_page(
        self, selection: Selection, after: Place | None, limit: int
    ) -> list[ListedGeneration]:
        """Up to `limit` generations of the selection after that place, newest first."""
        with self._connect() as connection:
            return read_page(connection, self._generation_key, selection, after, limit)

    def library_rows(self, ids: Iterable[str]) -> dict[str, ListedGeneration]:
        """Those of `ids` that are generations, finished or not, by id."""
        with self._connect() as connection:
            return read_rows(connection, self._generation_key, ids)

    def project_ids(self, limit: int) -> list[str]:
        """Up to `limit` projects that have masters or assets; those of the latest masters first."""
        with self._connect() as connection:
            return read_project_ids(connection, limit)

    def lack_of_writing(self) -> permissions.Lack | None:
        """What `insert` and `delete` may not do; None: they may do all."""
        with self._connect() as connection:
            return permissions.lack_of_writing(connection)

    def check_writing(self) -> None:
        """Raise CatalogError, with the fix, unless `recording` is allowed."""
        with self._connect() as connection:
            provider_tasks.check_right(connection)

    def of_task(self, task_id: str) -> list[provider_tasks.TaskRow]:
        """The rows of a task of the provider's."""
        with self._connect() as connection:
            return self._tasks.of(connection, task_id)

    @contextmanager
    def recording(
        self, row: provider_tasks.TaskRow, asset_url: str | None
    ) -> Iterator[provider_tasks.Recorded | None]:
        """Write what a task came to, see `TaskRows.record`.

        The row is locked, and nobody else sees what was written, until the block ends; undone if
        it raises.
        """
        with self._translated():
            connection = self._engine.connect()
        with connection:
            with self._translated():
                recorded = self._tasks.record(connection, row, asset_url)
            yield recorded
            with self._translated():
                connection.commit()

    def add(self, generation_id: str, user_id: str, kind: Kind, asset_url: str) -> None:
        """Insert one finished generation."""
        with self._connect() as connection:
            statement = sa.insert(generations).values(
                id=self._generation_key.bound(connection, generation_id),
                user_id=user_id,
                type=kind.value,
                status=FINISHED[0],
                asset_url=asset_url,
                created_at=sa.func.now(),
                updated_at=sa.func.now(),
            )
            connection.execute(statement)
            connection.commit()

    def add_master(
        self, master_id: str, project_id: str, name: str, generation_ids: Sequence[str]
    ) -> None:
        """Insert a master of these generations, and an asset of the same id for each."""
        assets = [
            {"asset_id": value, "project_id": project_id, "generation_id": value}
            for value in dict.fromkeys(generation_ids)
        ]
        master = {
            "master_id": master_id,
            "project_id": project_id,
            "name": name,
            "shots_config": list(generation_ids),
        }
        with self._connect() as connection:
            connection.execute(sa.insert(project_assets), assets)
            connection.execute(sa.insert(master_videos), master)
            connection.commit()

    def project_page(
        self, kind: Kind, project_id: str, after: Place | None, limit: int
    ) -> list[projects.Listed]:
        """Up to `limit` masters, renditions or assets of a project after that place, newest first.

        Another page follows exactly if there are `limit`, or none.
        """
        with self._connect() as connection:
            return self._projects[kind].page(connection, project_id, after, limit)

    def project_rows(
        self, kind: Kind, project_id: str, ids: Iterable[str]
    ) -> dict[str, projects.Listed]:
        """Those of `ids` that are masters, renditions or assets of the project, by id."""
        with self._connect() as connection:
            found = self._projects[kind].among(connection, project_id, ids)
        return {listed.row.id: listed for listed in found}

    def insert(self, kind: Kind, row_id: str, values: Mapping[str, Any]) -> bool:
        """Insert a master, rendition or asset; False if the id is taken, and nothing is changed.

        Raises NoRightToWrite. Raises InvalidRow: a value does not fit the host's column.
        """
        rows = self._projects[kind]
        with self._writing("INSERT", rows.table) as connection:
            try:
                return rows.insert(connection, row_id, values)
            except DataError as error:
                raise InvalidRow(_first_line(error)) from error

    def delete(self, kind: Kind, row_id: str) -> list[str]:
        """Delete a row, and a master's renditions with it; returns the ids of those.

        Raises NoRightToWrite.
        """
        rows = self._projects[kind]
        with self._writing("DELETE", rows.table) as connection:
            deleted = rows.delete(connection, row_id)
            if not deleted.row and self.existing(kind, [row_id]):
                raise permissions.no_right(connection, "DELETE", rows.table, by_policy=True)
        return deleted.renditions

    @contextmanager
    def _writing(self, action: str, table: sa.Table) -> Iterator[sa.Connection]:
        """A transaction that is committed at the end. Raises NoRightToWrite."""
        with self._connect() as connection:
            try:
                yield connection
                connection.commit()
            except DBAPIError as error:
                if not is_refusal(error):
                    raise
                connection.rollback()
                by_policy = is_by_policy(error)
                raise permissions.no_right(
                    connection, action, table, by_policy=by_policy
                ) from error

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except NoSuchTableError as error:
            raise CatalogError(f"table {error} does not exist: run `lens migrate`") from error
        except OperationalError as error:
            if isinstance(error.orig, QueryCanceled | LockNotAvailable):
                raise CatalogError(
                    f"the application's database took too long: {_first_line(error)}"
                ) from error
            raise CatalogError(
                f"the application's database cannot be reached: {_first_line(error)}"
            ) from error
        except DBAPIError as error:
            raise CatalogError(
                f"the application's database refused a query: {_first_line(error)}"
            ) from error


def _check_table(connection: sa.Connection, table: str, needed: Iterable[str]) -> None:
    """Raise CatalogError unless this role may read the `needed` columns of the table."""
    role, database = connection.execute(sa.text("SELECT current_user, current_database()")).one()
    found = connection.execute(sa.text("SELECT to_regclass(:name)"), {"name": table}).scalar()
    if found is None:
        raise CatalogError(
            f"table {table} does not exist in database {database}: run `lens migrate`"
        )
    columns = {column["name"] for column in sa.inspect(connection).get_columns(table)}
    missing = [name for name in needed if name not in columns]
    if missing:
        raise CatalogError(
            f"table {table} in database {database} lacks {', '.join(missing)}:"
            " add the column or point LENS_DATABASE_URL at the right database"
        )
    allowed = connection.execute(
        sa.text("SELECT bool_and(has_column_privilege(:name, c, 'SELECT')) FROM unnest(:c) c"),
        {"name": table, "c": list(needed)},
    ).scalar()
    if not allowed:
        raise CatalogError(
            f"role {role} may not SELECT from table {table}:"
            f" run GRANT SELECT ON {', '.join(READ)} TO {role}"
        )
    if connection.execute(_NO_ROW_IS_VISIBLE, {"name": table}).scalar():
        raise CatalogError(
            f"row-level security hides every row of {table} from role {role}: run"
            f" CREATE POLICY lens_reads ON {table} FOR SELECT TO {role} USING (true)"
        )


def _json_or_text(text: str) -> Any:
    """The value, or `text` if it is nested too deep: one such row must not hide all others."""
    try:
        return json.loads(text)
    except RecursionError:
        return text


def _use_utc(connection: Any, _: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _place(position: Position) -> sa.Tuple:
    return sa.tuple_(sa.literal(position.finished_at, TIME), sa.literal(position.id, sa.Text))


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
