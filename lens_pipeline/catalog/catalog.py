"""The application's tables: every read and write of this project."""

import datetime as dt
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, IntegrityError

from lens_pipeline.catalog import permissions, projects, provider_tasks, tables
from lens_pipeline.catalog.connection import connect, first_line, translated
from lens_pipeline.catalog.errors import CatalogError, MastersOff, RowInUse
from lens_pipeline.catalog.generations import (
    GenerationRows,
    Layout,
    ListedGeneration,
    Place,
    Selection,
    fingerprint_of,
)
from lens_pipeline.catalog.projects import read_project_ids
from lens_pipeline.catalog.row_types import (
    AssetRows,
    IdColumn,
    MasterRows,
    RowSet,
    ScaledRows,
    as_text,
    digest_query,
    place,
)
from lens_pipeline.catalog.rows import FINISHED, Digest, Kind, Position, Row, UnusableRow
from lens_pipeline.catalog.status_view import rows as status_rows
from lens_pipeline.catalog.status_view import schema as status_view
from lens_pipeline.catalog.tables import (
    READ,
    generations,
    master_videos,
    metadata,
    project_assets,
)
from lens_pipeline.errors import InvalidRow

logger = logging.getLogger(__name__)


class Catalog:
    """Threads, not processes, may share it. Methods raise CatalogError if the database fails.

    MastersOff, if they need tables that a site without masters lacks.
    """

    def __init__(self, url: str, layout: Layout | None = None) -> None:
        self._engine = connect(url)
        self._layout = layout or Layout()
        layout, title = self._layout, self._layout.title
        self._generations = GenerationRows(Kind.PHOTO, Kind.VIDEO, layout=layout, title=title)
        self._absent: list[str] | None = None
        self._tasks = provider_tasks.TaskRows(self._generations)
        assets = AssetRows(self._generations)
        masters = MasterRows(assets)
        self._scaled = ScaledRows(masters)
        self._rows: dict[Kind, RowSet] = {
            Kind.PHOTO: GenerationRows(Kind.PHOTO, layout=layout),
            Kind.VIDEO: GenerationRows(Kind.VIDEO, layout=layout),
            Kind.MASTER: masters,
            Kind.SCALED: self._scaled,
            Kind.SHOT: assets,
        }
        self._projects = {
            kind: projects.ProjectRows(kind, self._rows[kind])
            for kind in (Kind.MASTER, Kind.SCALED, Kind.SHOT)
        }

    def close(self) -> None:
        self._engine.dispose()

    def check(self) -> None:
        """Raises CatalogError, with the fix, unless all reads are allowed."""
        with self._connect() as connection:
            columns = self._read_columns(connection)
            permissions.check_reading(connection, columns, self._layout.setting_of)

    def lack_of(self, kind: Kind) -> str | None:
        """Why the site has no rows of this kind; None: it may have some.

        As of the first call: a table that comes later is found at the next start.
        """
        if kind in (Kind.PHOTO, Kind.VIDEO):
            return None
        if self._absent is None:
            with self._connect() as connection:
                absent = _absent(connection, permissions.PROJECT_TABLES)
            if absent and self._absent is None:
                logger.info("%s", MastersOff.of(absent))
            self._absent = absent
        return str(MastersOff.of(self._absent)) if self._absent else None

    def other_types(self) -> dict[str, int]:
        """Rows whose `type` is neither a photo's nor a video's, by it; reads the whole table."""
        name = sa.func.coalesce(as_text(generations.c.type), "NULL")
        query = (
            sa.select(name, sa.func.count())
            .where(sa.not_(sa.func.coalesce(self._generations.belongs, False)))
            .group_by(name)
            .order_by(sa.func.count().desc())
        )
        with self._connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def migration(self, role: str | None, *, masters: bool = False) -> list[str]:
        """The statements of `migrate`, `migrate_view` and `grant`; None: for this role."""
        with self._connect() as connection:
            role = role or permissions.current_role(connection)
            missing = _missing(connection, masters=masters)
            of_views = status_view.migration(connection, self._layout, missing, role)
            columns = self._read_columns(connection, missing)
            return [
                *tables.creation(missing, connection.dialect),
                *tables.additions(connection),
                *permissions.reading_grants(connection, role, columns),
                *(of_views or status_view.grants(connection, role)),
            ]

    def migrate(self, *, masters: bool = False) -> list[str]:
        """Create absent tables, and add columns to those of an earlier version. Returns names.

        A host's own tables are not altered. `masters`: also those of masters for a site that has
        generations. Raises CatalogError: this role may not.
        """
        with self._connect() as connection:
            absent = _missing(connection, masters=masters)
            advice = permissions.migration_advice(connection) if absent else None
            if advice:
                raise CatalogError(f"table {absent[0]} does not exist: {advice}")
            _execute(connection, tables.creation(absent, connection.dialect))
            additions = tables.additions(connection)
            if not additions or permissions.migration_advice(connection, "scaled_videos"):
                return absent
            _execute(connection, additions)
        return [*absent, f"columns {', '.join(tables.ADDED)} of scaled_videos"]

    def lack_of_fills(self) -> str | None:
        """Why renditions get black bars alone, with the fix; None: orders are recorded."""
        with self._connect() as connection:
            if tables.readable_additions(connection):
                return None
        fix = f"run {tables.BY_HAND}, and grant this role to read it"
        return self.additions_note() or f"scaled_videos lacks columns for orders: {fix}"

    def additions_note(self) -> str | None:
        """What `lens migrate` would add to a table of an earlier version, with the command."""
        with self._connect() as connection:
            if not tables.additions(connection):
                return None
            advice = permissions.migration_advice(connection, "scaled_videos")
            return f"scaled_videos lacks columns for orders: {advice or 'run `lens migrate`'}"

    def migrate_view(self) -> list[str]:
        """Create or update the views and their tables, in one transaction; returns their names.

        Grants are kept. Raises CatalogError: this role may not.
        """
        with self._connect() as connection:
            statements = status_view.migration(connection, self._layout)
            if not statements:
                return []
            advice = status_view.advice(connection)
            if advice:
                raise CatalogError(advice)
            _execute(connection, statements)
            return [one.view for one in status_view.present(connection)]

    def grant(self, role: str) -> list[str]:
        """Grant `role` what the pipeline needs; returns the statements.

        Raises CatalogError: this role may not.
        """
        with self._connect() as connection:
            statements = self._grants(connection, role)
            _execute(connection, statements)
            # Without the right to grant PostgreSQL only warns.
            left = self._grants(connection, role)
        if left:
            problem = "this role may not grant what is missing: let the owner run"
            raise CatalogError(f"{problem} {'; '.join(left)}")
        return statements

    def lack_of_view(self) -> permissions.Lack | None:
        """Why this role does not keep `lens_generations`; None: it may."""
        with self._connect() as connection:
            return status_view.lack(connection)

    def view_age_note(self) -> str | None:
        """See `status_view.age_note`."""
        with self._connect() as connection:
            return status_view.age_note(connection, self._layout)

    def hidden_rows(self) -> list[str]:
        """See `status_view.hidden_rows`."""
        with self._connect() as connection:
            return status_view.hidden_rows(connection)

    def mark_view(self, seconds: float | None, *, compared: bool = False) -> None:
        """See `status_view.rows.mark`."""
        with self._connect() as connection:
            status_rows.mark(connection, seconds, compared=compared)
            connection.commit()

    def is_view_marked(self, seconds: float) -> bool:
        """See `status_view.rows.is_marked`."""
        with self._connect() as connection:
            return status_rows.is_marked(connection, seconds)

    def unsettled(
        self, kind: Kind, asset: str, recipe: str, seconds: float, limit: int
    ) -> list[str] | None:
        """See `status_view.rows.unsettled`; None unless the copy is whole and `is_view_marked`."""
        with self._connect() as connection:
            if status_view.lack(connection) or status_view.is_older(connection):
                return None
            if not status_rows.is_marked(connection, seconds):
                return None
            wanted = fingerprint_of(recipe, self._layout.source)
            return status_rows.unsettled(connection, self._rows[kind], asset, wanted, limit)

    def view_counts(
        self, kind: Kind, asset: str, seconds: float
    ) -> dict[str, tuple[int, dt.datetime | None]] | None:
        """See `status_view.rows.counts`; None unless the copy `is_view_marked`."""
        with self._connect() as connection:
            if status_view.version(connection) is None:
                return None
            if not status_rows.is_marked(connection, seconds):
                return None
            return status_rows.counts(connection, self._rows[kind], asset)

    def write_view(
        self, asset: str, rows: Mapping[str, Mapping[str, object]], gone: Sequence[str]
    ) -> int:
        """See `status_view.rows.write`."""
        with self._connect() as connection:
            count = status_rows.write(connection, asset, rows, gone)
            connection.commit()
        return count

    def write_view_progress(self, percents: Mapping[str, int | None]) -> None:
        """See `status_view.rows.write_progress`."""
        with self._connect() as connection:
            status_rows.write_progress(connection, percents)
            connection.commit()

    def view_fingerprints(self, asset: str, ids: Sequence[str]) -> dict[str, str | None]:
        """See `status_view.rows.fingerprints`."""
        with self._connect() as connection:
            return status_rows.fingerprints(connection, asset, ids)

    def drop_orphans(self) -> int:
        """See `status_view.rows.delete_orphans`."""
        with self._connect() as connection:
            count = status_rows.delete_orphans(connection)
            connection.commit()
        return count

    def finished(self, kind: Kind, ids: Iterable[str]) -> dict[str, Row | UnusableRow]:
        """Finished rows among `ids`, by id; a UUID in capitals finds its row."""
        with self._connect() as connection:
            return self._rows[kind].by_id(connection, ids)

    def canonical_id(self, kind: Kind, row_id: str) -> str:
        """As the table gives it back: a UUID in lower case where its column is `uuid`."""
        with self._connect() as connection:
            return self._rows[kind].key.canonical(connection, row_id)

    def existing(self, kind: Kind, ids: Iterable[str]) -> set[str]:
        """Those of `ids` with a row, finished or not; a photo may have become a video."""
        rows = self._rows[kind]
        with self._connect() as connection:
            wanted = rows.key.bindable(connection, ids)
            if not wanted:
                return set()
            among = rows.key.among(connection, wanted)
            query = sa.select(rows.key.text).where(among)
            return set(connection.execute(query).scalars())

    def used_in_projects(self, generation_ids: Iterable[str]) -> set[str]:
        """Those of the generations, or of their ids, that assets of projects are made from."""
        if self.lack_of(Kind.SHOT):
            return set()
        key = IdColumn(project_assets.c.generation_id)
        with self._connect() as connection:
            wanted = key.bindable(connection, generation_ids)
            if not wanted:
                return set()
            query = sa.select(key.text).where(key.among(connection, wanted))
            return set(connection.execute(query).scalars())

    def used_sources(self, keys: Iterable[str]) -> set[str]:
        """Those object keys that a row names as its file; reads whole tables."""
        wanted = sa.cast(list(keys), postgresql.ARRAY(sa.Text))
        columns = self._layout.addresses
        columns += [] if self.lack_of(Kind.SHOT) else [as_text(project_assets.c.asset_url)]
        with self._connect() as connection:
            queries = (sa.select(column).where(column == sa.any_(wanted)) for column in columns)
            return {key for query in queries for key in connection.execute(query).scalars()}

    def after(
        self, kind: Kind, position: Position | None, limit: int
    ) -> list[tuple[Position | None, Row | UnusableRow]]:
        """The next finished rows, oldest first; those without a time are last, without position."""
        rows = self._rows[kind]
        query = (
            rows.select()
            .where(rows.counts)
            .order_by(rows.time.asc().nulls_last(), rows.key.text)
            .limit(limit)
        )
        if position is not None:
            query = query.where(rows.place > _place(position))
        with self._connect() as connection:
            found = connection.execute(query).all()
            parsed = rows.parse(connection, found)
        places = [Position(row.changed_at, row.id) if row.changed_at else None for row in found]
        return list(zip(places, parsed, strict=True))

    def waiting_after(
        self, kind: Kind, position: Position | None, oldest: int, newest: int
    ) -> list[tuple[str, str]]:
        """Ids and owners of the `oldest` and the `newest` rows after `position`, oldest first."""
        rows = self._rows[kind]
        query = sa.select(rows.key.text.label("id"), rows.owner.label("owner")).where(rows.counts)
        if position is not None:
            query = query.where(rows.place > _place(position))
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
        """Finished rows from `since` to `until`, newest first."""
        rows = self._rows[kind]
        query = (
            rows.select()
            .where(rows.counts, rows.time >= since, rows.place <= _place(until))
            .order_by(rows.time.desc(), rows.key.text.desc())
            .limit(limit)
        )
        with self._connect() as connection:
            return rows.parse(connection, connection.execute(query).all())

    def digest(self, kind: Kind, position: Position | None, since: dt.datetime | None) -> Digest:
        """Of the newest finished rows of the last hour, from `since` on.

        `position`: the last one known. If the database's clock was set back, any row may be later.
        """
        rows = self._rows[kind]
        values = {}
        if position is not None:
            values = {"time": position.finished_at, "id": position.id, "since": since}
        with self._connect() as connection:
            query = digest_query(rows, is_first=position is None)
            text, *later = connection.execute(query, values).one()
        return Digest(text or "", any(later))

    def all_finished(self, kind: Kind, page: int = 2000) -> Iterator[list[Row | UnusableRow]]:
        """Every finished row of `kind`, in pages by id."""
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
        """Finished rows older than `before`, or without a time."""
        rows = self._rows[kind]
        query = (
            sa.select(sa.func.count())
            .select_from(rows.key.column.table)
            .where(rows.counts, sa.func.coalesce(rows.time, before) <= before)
        )
        with self._connect() as connection:
            return connection.execute(query).scalar_one()

    def has_finished(self, before: dt.datetime) -> bool:
        """Whether any row did."""
        older = (
            sa.exists(rows.key.column).where(rows.counts, rows.time < before)
            for rows in self._tables()
        )
        with self._connect() as connection:
            return connection.execute(sa.select(sa.or_(*older))).scalar_one()

    def now(self) -> dt.datetime:
        """The database's clock, which also stamps the rows."""
        with self._connect() as connection:
            return connection.execute(sa.select(sa.func.now())).scalar_one()

    def invalid(self, limit: int = 1000) -> list[UnusableRow]:
        """Up to `limit` rows of each table that look finished but can never be processed."""
        found: list[Row | UnusableRow] = []
        with self._connect() as connection:
            for rows in self._tables():
                query = rows.select().where(rows.unusable).order_by(rows.key.text).limit(limit)
                found += rows.parse(connection, connection.execute(query).all())
        return [row for row in found if isinstance(row, UnusableRow)]

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that a generation, a master or a rendition has, finished or not."""
        found: set[str] = set()
        with self._connect() as connection:
            for rows in self._tables():
                rows_by_id = {row.id: row for row in rows.among(connection, ids)}
                found |= rows.key.as_asked(connection, ids, rows_by_id).keys()
        return found

    def problems(self, row_id: str) -> list[str]:
        """Why rows of this id cannot be used."""
        found: list[Row | UnusableRow] = []
        with self._connect() as connection:
            for rows in self._tables():
                found += rows.parse(connection, rows.among(connection, [row_id]))
        return [row.reason for row in found if isinstance(row, UnusableRow)]

    def library_page(
        self, selection: Selection, after: Place | None, limit: int, until: Place | None = None
    ) -> list[ListedGeneration]:
        """Generations of any status after that place, newest first."""
        with self._connect() as connection:
            return self._generations.page(connection, selection, after, limit, until)

    def library_place(self, selection: Selection, after: Place | None, count: int) -> Place | None:
        """See `GenerationRows.place_behind`."""
        with self._connect() as connection:
            return self._generations.place_behind(connection, selection, after, count)

    def library_rows(self, ids: Iterable[str]) -> dict[str, ListedGeneration]:
        """Generations of any status, by id."""
        with self._connect() as connection:
            return self._generations.listed(connection, ids)

    def project_ids(self, limit: int) -> list[str]:
        """See `projects.read_project_ids`."""
        with self._connect() as connection:
            return read_project_ids(connection, limit)

    def lack_of_writing(self) -> permissions.Lack | None:
        """The rights that `insert` and `delete` lack; None: they have all."""
        with self._connect() as connection:
            return permissions.lack_of_writing(connection)

    def check_writing(self) -> None:
        """Raises CatalogError, with the fix, unless `recording` is allowed."""
        with self._connect() as connection:
            permissions.check_tasks(connection)

    def check_deletion(self) -> None:
        """Raises NoRightToWrite, with the fix, unless `delete_generation` is allowed."""
        with self._connect() as connection:
            permissions.check_deletion(connection)

    def of_task(self, task_id: str) -> list[provider_tasks.TaskRow]:
        with self._connect() as connection:
            return self._tasks.of(connection, task_id)

    def task_of(self, generation_id: str) -> provider_tasks.TaskRow | None:
        """Of a generation; None: it has no task."""
        with self._connect() as connection:
            return self._tasks.of_row(connection, generation_id)

    def unfinished_tasks(
        self, since: dt.datetime | None, until: dt.datetime, known: Collection[str], most: int
    ) -> list[provider_tasks.TaskRow]:
        """See `TaskRows.unfinished`."""
        with self._connect() as connection:
            return self._tasks.unfinished(connection, since, until, known, most)

    @contextmanager
    def recording(
        self, row: provider_tasks.TaskRow, asset_url: str | None
    ) -> Iterator[provider_tasks.Recorded | None]:
        """See `TaskRows.record`. The block's end commits and unlocks; an error in it rolls back."""
        with translated():
            connection = self._engine.connect()
        with connection:
            with translated():
                recorded = self._tasks.record(connection, row, asset_url)
            yield recorded
            with translated():
                connection.commit()

    def check_adding(self) -> None:
        """Raises NoRightToWrite unless `add` is allowed."""
        with self._connect() as connection:
            permissions.check_adding(connection)

    def takes_user(self, user_id: str) -> bool:
        """Whether `add` can insert a row of this user: the host's column may be uuid."""
        with self._connect() as connection:
            return bool(self._generations.user.bindable(connection, [user_id]))

    def add(self, generation_id: str, user_id: str, kind: Kind, asset_url: str) -> None:
        """Insert a finished generation. Raises NoRightToWrite."""
        types = self._layout.types_of(kind)
        if not types:
            raise CatalogError(f"LENS_TYPES names no type of a {kind}: name one")
        with self._writing("INSERT", generations) as connection:
            statement = sa.insert(generations).values(
                id=self._generations.key.bound(connection, generation_id),
                user_id=self._generations.user.bound(connection, user_id),
                type=types[0],
                status=FINISHED[0],
                asset_url=asset_url,
                created_at=sa.func.now(),
                updated_at=sa.func.now(),
            )
            connection.execute(statement)

    def add_master(
        self, master_id: str, project_id: str, name: str, generation_ids: Sequence[str]
    ) -> None:
        """Insert a master, and an asset for each generation."""
        assets = [
            {"asset_id": value, "project_id": project_id, "generation_id": value}
            for value in dict.fromkeys(generation_ids)
        ]
        master = {"master_id": master_id, "project_id": project_id, "name": name}
        master |= {"shots_config": list(generation_ids)}
        with self._connect() as connection:
            connection.execute(sa.insert(project_assets), assets)
            connection.execute(sa.insert(master_videos), master)
            connection.commit()

    def project_page(
        self,
        kind: Kind,
        project_id: str,
        after: Place | None,
        limit: int,
        masters: Sequence[str] | None = None,
        orders: Sequence[str] | None = None,
    ) -> list[projects.Listed]:
        """Rows of a project after that place, newest first; renditions of `masters` or `orders`
        alone.
        """
        with self._connect() as connection:
            if orders is not None and not self._scaled.has_additions(connection):
                return []
            return self._projects[kind].page(connection, project_id, after, limit, masters, orders)

    def rendition_counts(self, master_ids: Iterable[str]) -> dict[str, int]:
        """By master, of those that have any."""
        with self._connect() as connection:
            return self._projects[Kind.SCALED].counts(connection, master_ids)

    def project_rows(
        self, kind: Kind, project_id: str, ids: Iterable[str]
    ) -> dict[str, projects.Listed]:
        with self._connect() as connection:
            return self._projects[kind].among(connection, project_id, ids)

    @contextmanager
    def inserting(
        self, kind: Kind, project_id: str, new: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[bool]:
        """Values of rows by id; all or none: False if an id is taken.

        The block's end commits; an error in it rolls back. Raises NoRightToWrite; InvalidRow: a
        value does not fit.
        """
        rows = self._projects[kind]
        with translated():
            connection = self._engine.connect()
        with connection:
            with translated(), permissions.refusal_explained(connection, "INSERT", rows.table):
                has_additions = kind is Kind.SCALED and self._scaled.has_additions(connection)
                known = {row_id: _known(values, has_additions) for row_id, values in new.items()}
                try:
                    added = rows.insert(connection, project_id, known)
                except DataError as error:
                    raise InvalidRow(first_line(error)) from error
                if not added:
                    connection.rollback()
            yield added
            with translated():
                connection.commit()

    def rename_master(self, project_id: str, master_id: str, name: str) -> None:
        """Raises NoRightToWrite."""
        with self._writing("UPDATE", master_videos) as connection:
            if not self._projects[Kind.MASTER].rename(connection, project_id, master_id, name):
                raise permissions.no_right(connection, "UPDATE", master_videos, by_policy=True)

    def masters_named(self, project_id: str, name: str, limit: int) -> list[str]:
        """Ids of the project's masters with this name, but for capitals."""
        with self._connect() as connection:
            return self._projects[Kind.MASTER].named(connection, project_id, name, limit)

    def delete(self, kind: Kind, row_id: str) -> list[str]:
        """Returns the ids of a master's renditions, deleted with it. Raises NoRightToWrite."""
        rows = self._projects[kind]
        with self._writing("DELETE", rows.table) as connection:
            renditions = rows.delete(connection, row_id)
            if renditions is None and self.existing(kind, [row_id]):
                raise permissions.no_right(connection, "DELETE", rows.table, by_policy=True)
        return renditions or []

    def delete_generation(self, generation_id: str) -> None:
        """Raises NoRightToWrite; RowInUse: an asset of a project is made from it, for example."""
        if self.used_in_projects([generation_id]):
            raise RowInUse("a project uses it")
        key = self._generations.key
        with self._writing("DELETE", generations) as connection:
            this = key.among(connection, key.bindable(connection, [generation_id]))
            try:
                count = connection.execute(sa.delete(generations).where(this)).rowcount
            except IntegrityError as error:
                raise RowInUse(first_line(error)) from error
            if not count and self.existing(Kind.PHOTO, [generation_id]):
                raise permissions.no_right(connection, "DELETE", generations, by_policy=True)

    def _grants(self, connection: sa.Connection, role: str) -> list[str]:
        reading = permissions.reading_grants(connection, role, self._read_columns(connection))
        return [*reading, *status_view.grants(connection, role)]

    def _read_columns(
        self, connection: sa.Connection, missing: Collection[str] = ()
    ) -> dict[str, Sequence[str]]:
        """By table: all that is read, of masters only where the tables are there or `missing`."""
        absent = _absent(connection, permissions.PROJECT_TABLES)
        read: dict[str, Sequence[str]] = {"generations": self._layout.columns}
        if set(absent) <= set(missing):
            read |= {name: READ[name] for name in permissions.PROJECT_TABLES}
        return read

    def _tables(self) -> list[RowSet]:
        """Whose unusable rows are reported."""
        others = (kind for kind in (Kind.MASTER, Kind.SCALED) if not self.lack_of(kind))
        return [self._generations, *(self._rows[kind] for kind in others)]

    @contextmanager
    def _writing(self, action: str, table: sa.Table) -> Iterator[sa.Connection]:
        """The block's end commits. Raises NoRightToWrite."""
        with self._connect() as link, permissions.refusal_explained(link, action, table):
            yield link
            link.commit()

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        with translated(), self._engine.connect() as connection:
            yield connection


def _absent(connection: sa.Connection, names: Iterable[str]) -> list[str]:
    return [name for name in names if not permissions.exists(connection, name)]


def _known(values: Mapping[str, Any], has_additions: bool) -> dict[str, Any]:
    return {n: value for n, value in values.items() if has_additions or n not in tables.ADDED}


def _missing(connection: sa.Connection, *, masters: bool) -> list[str]:
    """Tables to create; a site with its own generations gets those of `masters` if it wants them.

    One of these names may be a table of its own.
    """
    absent = _absent(connection, [table.name for table in metadata.sorted_tables])
    return absent if masters or "generations" in absent else []


def _execute(connection: sa.Connection, statements: Iterable[str]) -> None:
    """In one transaction."""
    for statement in statements:
        connection.exec_driver_sql(statement)
    connection.commit()


def _place(position: Position) -> sa.Tuple:
    return place(position.finished_at, position.id)
