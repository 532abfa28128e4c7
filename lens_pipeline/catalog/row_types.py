"""The rows of each kind: which they are, in which order, and what becomes of them in Python."""

import datetime as dt
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lens_pipeline.catalog import shots
from lens_pipeline.catalog.rows import (
    FINISHED,
    Generation,
    Kind,
    MasterVideo,
    ProjectAsset,
    Row,
    ScaledVideo,
    UnusableRow,
)
from lens_pipeline.catalog.tables import (
    TIME,
    generations,
    master_videos,
    project_assets,
    row_time,
    scaled_videos,
)
from lens_pipeline.core.ids import KEY_PATTERN, key_problem

# PostgreSQL's $ does not match before a trailing newline, unlike Python's.
_GOOD_KEY = f"^{KEY_PATTERN.pattern}$"


class IdColumn:
    """A key that a host's table may hold as text or as uuid."""

    def __init__(self, column: sa.Column) -> None:
        self.column = column
        self._is_uuid: bool | None = None

    @property
    def text(self) -> sa.Cast:
        return as_text(self.column)

    def bound(self, connection: sa.Connection, value: str) -> sa.ColumnElement:
        bound = sa.bindparam(None, value, type_=sa.Text)
        return sa.cast(bound, postgresql.UUID) if self._uuid(connection) else bound

    def bindable(self, connection: sa.Connection, ids: Iterable[str]) -> list[str]:
        """`ids` that can be in the table at all: comparing text to a uuid column is an error."""
        if self._uuid(connection):
            return [value for value in ids if _is_uuid(value)]
        return [value for value in ids if _is_text(value)]

    def among(self, connection: sa.Connection, ids: Sequence[str]) -> sa.ColumnElement[bool]:
        """Whether the key is one of `ids`, which are bindable."""
        kind = postgresql.UUID(as_uuid=False) if self._uuid(connection) else sa.Text()
        return self.column == sa.any_(sa.cast(list(ids), postgresql.ARRAY(kind)))

    def _uuid(self, connection: sa.Connection) -> bool:
        if self._is_uuid is None:
            columns = sa.inspect(connection).get_columns(self.column.table.name)
            self._is_uuid = any(
                column["name"] == self.column.name and isinstance(column["type"], sa.Uuid)
                for column in columns
            )
        return self._is_uuid


class RowSet(ABC):
    """The rows of one kind."""

    def __init__(self, key: IdColumn) -> None:
        self.key = key
        # The cast only changes columns without time zone, read as UTC.
        self.time = sa.cast(row_time(key.column.table), TIME)

    @property
    @abstractmethod
    def belongs(self) -> sa.ColumnElement[bool]:
        """Whether a row of the table is of this kind."""

    @property
    def counts(self) -> sa.ColumnElement[bool]:
        """Whether it is of this kind and finished."""
        return self.belongs

    @property
    @abstractmethod
    def owner(self) -> sa.ColumnElement[str]:
        """Who waits for its derivative, as text: a user or project."""

    @property
    @abstractmethod
    def unusable(self) -> sa.ColumnElement[bool]:
        """Whether a row, of whatever kind its table holds, can never be used."""

    @abstractmethod
    def select(self) -> sa.Select:
        """All rows of the table with what `parse` needs, `id` and `changed_at`."""

    @abstractmethod
    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        """What the rows say, in their order."""

    def by_id(self, connection: sa.Connection, ids: Iterable[str]) -> dict[str, Row | UnusableRow]:
        """Those of `ids` that count; unknown and unfinished ones are absent."""
        wanted = self.key.bindable(connection, ids)
        if not wanted:
            return {}
        query = self.select().where(self.counts, self.key.among(connection, wanted))
        return {row.id: row for row in self.parse(connection, connection.execute(query).all())}


class GenerationRows(RowSet):
    """Photos, or videos."""

    def __init__(self, kind: Kind, key: IdColumn) -> None:
        super().__init__(key)
        self._kind = kind

    @property
    def belongs(self) -> sa.ColumnElement[bool]:
        return generations.c.type == self._kind.value

    @property
    def counts(self) -> sa.ColumnElement[bool]:
        return sa.and_(self.belongs, generations.c.status.in_(FINISHED))

    @property
    def owner(self) -> sa.ColumnElement[str]:
        return as_text(generations.c.user_id)

    @property
    def unusable(self) -> sa.ColumnElement[bool]:
        return sa.and_(
            sa.func.lower(sa.func.trim(generations.c.status)).in_(FINISHED),
            sa.or_(
                generations.c.status.not_in(FINISHED),
                # A host's table may hold NULL here, which compares as neither.
                generations.c.type.is_(None),
                generations.c.type.not_in([Kind.PHOTO.value, Kind.VIDEO.value]),
                is_no_key(self.key.text),
                is_no_key(as_text(generations.c.user_id)),
            ),
        )

    def select(self) -> sa.Select:
        return sa.select(
            self.key.text.label("id"),
            self.time.label("changed_at"),
            as_text(generations.c.user_id).label("user_id"),
            generations.c.type.label("type"),
            generations.c.status.label("status"),
            generations.c.asset_url.label("asset_url"),
        )

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        return [self._parse(row) for row in rows]

    def _parse(self, row: sa.Row) -> Row | UnusableRow:
        problem = _generation_problem(row)
        if problem:
            return UnusableRow(row.id, problem)
        kind = Kind(row.type)
        return Generation(row.id, row.user_id, kind, row.asset_url or "", row.changed_at)


class MasterRows(RowSet):
    """Masters, with what their shots lead to."""

    def __init__(self, generation_key: IdColumn) -> None:
        super().__init__(IdColumn(master_videos.c.master_id))
        self._asset_key = IdColumn(project_assets.c.asset_id)
        self._generation_key = generation_key

    @property
    def belongs(self) -> sa.ColumnElement[bool]:
        return sa.true()

    @property
    def owner(self) -> sa.ColumnElement[str]:
        return as_text(master_videos.c.project_id)

    @property
    def unusable(self) -> sa.ColumnElement[bool]:
        project = as_text(master_videos.c.project_id)
        return sa.or_(is_no_key(self.key.text), is_no_key(project))

    def select(self) -> sa.Select:
        return sa.select(
            self.key.text.label("id"),
            self.time.label("changed_at"),
            as_text(master_videos.c.project_id).label("project_id"),
            as_text(master_videos.c.name).label("name"),
            master_videos.c.shots_config.label("shots_config"),
        )

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        configs = {row.id: shots.read_config(row.shots_config) for row in rows}
        wanted = {name for names, _ in configs.values() for name in names}
        assets, generated = self._found(connection, wanted)
        return [_master(row, *configs[row.id], assets, generated) for row in rows]

    def resolved(
        self, connection: sa.Connection, projects: Mapping[str, str]
    ) -> tuple[shots.Shot, ...]:
        """What these assets, each with its project, lead to, in their order."""
        assets, generated = self._found(connection, projects)
        return tuple(
            shot
            for name, project in projects.items()
            for shot in shots.resolve(project, [name], assets, generated)
        )

    def _found(
        self, connection: sa.Connection, asset_ids: Iterable[str]
    ) -> tuple[dict[str, shots.Asset], dict[str, shots.ShotGeneration]]:
        assets = self._assets(connection, asset_ids)
        named = {asset.generation_id for asset in assets.values() if asset.generation_id}
        return assets, self._generations(connection, named)

    def _assets(self, connection: sa.Connection, ids: Iterable[str]) -> dict[str, shots.Asset]:
        wanted = self._asset_key.bindable(connection, ids)
        if not wanted:
            return {}
        query = sa.select(
            self._asset_key.text.label("id"),
            as_text(project_assets.c.project_id).label("project_id"),
            as_text(project_assets.c.generation_id).label("generation_id"),
            project_assets.c.asset_url,
            sa.cast(project_assets.c.created_at, TIME).label("created_at"),
        ).where(self._asset_key.among(connection, wanted))
        return {
            row.id: shots.Asset(row.project_id, row.generation_id, row.asset_url, row.created_at)
            for row in connection.execute(query)
        }

    def _generations(
        self, connection: sa.Connection, ids: Iterable[str]
    ) -> dict[str, shots.ShotGeneration]:
        wanted = self._generation_key.bindable(connection, ids)
        if not wanted:
            return {}
        query = sa.select(
            self._generation_key.text.label("id"),
            generations.c.type,
            generations.c.status,
            generations.c.asset_url,
            sa.cast(row_time(generations), TIME).label("changed_at"),
        ).where(self._generation_key.among(connection, wanted))
        return {
            row.id: shots.ShotGeneration(row.type, row.status, row.asset_url, row.changed_at)
            for row in connection.execute(query)
        }


class AssetRows(RowSet):
    """What projects may use as shots."""

    def __init__(self, masters: MasterRows) -> None:
        super().__init__(IdColumn(project_assets.c.asset_id))
        self._masters = masters

    @property
    def belongs(self) -> sa.ColumnElement[bool]:
        return sa.true()

    @property
    def owner(self) -> sa.ColumnElement[str]:
        return as_text(project_assets.c.project_id)

    @property
    def unusable(self) -> sa.ColumnElement[bool]:
        return is_no_key(self.key.text)

    def select(self) -> sa.Select:
        return sa.select(
            self.key.text.label("id"),
            self.time.label("changed_at"),
            as_text(project_assets.c.project_id).label("project_id"),
            as_text(project_assets.c.generation_id).label("generation_id"),
            project_assets.c.asset_url.label("asset_url"),
        )

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        projects = {row.id: row.project_id for row in rows}
        found = self._masters.resolved(connection, projects)
        return [_asset(row, shot) for row, shot in zip(rows, found, strict=True)]


class ScaledRows(RowSet):
    """Renditions, with the masters they are made from."""

    def __init__(self, masters: MasterRows) -> None:
        super().__init__(IdColumn(scaled_videos.c.scaled_id))
        self._masters = masters

    @property
    def belongs(self) -> sa.ColumnElement[bool]:
        return sa.true()

    @property
    def owner(self) -> sa.ColumnElement[str]:
        return as_text(scaled_videos.c.master_id)

    @property
    def unusable(self) -> sa.ColumnElement[bool]:
        missing = [scaled_videos.c[name].is_(None) for name in ("master_id", "width", "height")]
        return sa.or_(is_no_key(self.key.text), *missing)

    def select(self) -> sa.Select:
        return sa.select(
            self.key.text.label("id"),
            self.time.label("changed_at"),
            as_text(scaled_videos.c.master_id).label("master_id"),
            *(scaled_videos.c[name] for name in ("start_seconds", "end_seconds")),
            *(scaled_videos.c[name] for name in ("width", "height")),
        )

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        masters = self._masters.by_id(connection, {row.master_id for row in rows if row.master_id})
        return [_scaled(row, masters.get(row.master_id)) for row in rows]


def as_text(column: sa.Column) -> sa.Cast:
    return sa.cast(column, sa.Text)


def _master(
    row: sa.Row,
    names: list[str],
    problem: str | None,
    assets: dict[str, shots.Asset],
    generated: dict[str, shots.ShotGeneration],
) -> MasterVideo | UnusableRow:
    unusable = key_problem("master_id", row.id) or key_problem("project_id", row.project_id or "")
    if unusable:
        return UnusableRow(row.id, unusable)
    found = shots.resolve(row.project_id, names, assets, generated)
    times = [time for time in (row.changed_at, *(s.finished_at for s in found)) if time]
    latest: dt.datetime | None = max(times, default=None)
    return MasterVideo(row.id, row.project_id, row.name or "", found, latest, problem)


def _asset(row: sa.Row, shot: shots.Shot) -> ProjectAsset | UnusableRow:
    unusable = key_problem("asset_id", row.id)
    if unusable:
        return UnusableRow(row.id, unusable)
    return ProjectAsset(row.id, shot, row.generation_id, row.asset_url)


def _scaled(row: sa.Row, master: Row | UnusableRow | None) -> ScaledVideo | UnusableRow:
    missing = [name for name in ("master_id", "width", "height") if getattr(row, name) is None]
    unusable = f"{missing[0]} is NULL" if missing else key_problem("scaled_id", row.id)
    if unusable:
        return UnusableRow(row.id, unusable)
    return ScaledVideo(
        id=row.id,
        master_id=row.master_id,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        width=row.width,
        height=row.height,
        finished_at=row.changed_at,
        master=master if isinstance(master, MasterVideo) else None,
    )


def _generation_problem(row: sa.Row) -> str | None:
    if row.status not in FINISHED:
        return f"status is {row.status!r}: finished rows have {', '.join(FINISHED)}, in lower case"
    if row.type not in {Kind.PHOTO.value, Kind.VIDEO.value}:
        return f"type is {row.type!r}: only photo and video are known"
    return key_problem("id", row.id) or key_problem("user_id", row.user_id or "")


def is_no_key(text: sa.ColumnElement) -> sa.ColumnElement[bool]:
    return sa.or_(text.is_(None), text.op("!~")(_GOOD_KEY), text.like("%..%"))


def _is_text(value: str) -> bool:
    """Whether PostgreSQL could hold it: no NUL, and no half of a character."""
    return "\0" not in value and not any("\ud800" <= one <= "\udfff" for one in value)


def _is_uuid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False
