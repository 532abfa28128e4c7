"""Rows of assets, masters and renditions, and what all kinds of rows share."""

import datetime as dt
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lens_pipeline.catalog import shots
from lens_pipeline.catalog.rows import (
    ENLARGED,
    Fill,
    MasterVideo,
    ProjectAsset,
    Row,
    ScaledVideo,
    UnusableRow,
    known_time,
)
from lens_pipeline.catalog.tables import (
    ADDED,
    TIME,
    master_videos,
    project_assets,
    readable_additions,
    row_time,
    scaled_videos,
)
from lens_pipeline.core.ids import KEY_PATTERN, canonical_uuid, key_problem

# PostgreSQL's $ does not match before a trailing newline, unlike Python's.
_GOOD_KEY = f"^{KEY_PATTERN.pattern}$"
# Newest rows of a digest; a tick looks at fewer.
_MOST_DIGESTED = 1000
# Clocks of an application may be this much behind. Without it, the rows of all other kinds since
# the last one would be read.
_DIGESTED = sa.text("interval '1 hour'")
_SCALED_COLUMNS = ("start_seconds", "end_seconds", "width", "height")
T = TypeVar("T")
_Found = tuple[dict[str, shots.Asset], dict[str, shots.ShotGeneration]]


def as_text(column: sa.Column) -> sa.Cast:
    return sa.cast(column, sa.Text)


def text_of(column: sa.Column) -> sa.Label:
    return as_text(column).label(column.name)


def place(time: dt.datetime, row_id: str) -> sa.Tuple:
    return sa.tuple_(sa.literal(time, TIME), sa.literal(row_id, sa.Text))


class IdColumn:
    """A column that a host's table may have as text or as uuid."""

    def __init__(self, column: sa.Column) -> None:
        self.column = column
        self._is_uuid: bool | None = None

    @property
    def text(self) -> sa.Cast:
        return as_text(self.column)

    def bound(self, connection: sa.Connection, value: str) -> sa.ColumnElement:
        bound = sa.bindparam(None, value, type_=sa.Text)
        return sa.cast(bound, postgresql.UUID) if self._uuid(connection) else bound

    def equals(self, connection: sa.Connection, value: str) -> sa.ColumnElement[bool]:
        return self.column == self.bound(connection, value)

    def bindable(self, connection: sa.Connection, ids: Iterable[str]) -> list[str]:
        """The `ids` that the column can hold: PostgreSQL refuses to compare others to it."""
        if self._uuid(connection):
            return [value for value in ids if canonical_uuid(value)]
        return [value for value in ids if _is_text(value)]

    def among(self, connection: sa.Connection, ids: Sequence[str]) -> sa.ColumnElement[bool]:
        kind = postgresql.UUID(as_uuid=False) if self._uuid(connection) else sa.Text()
        return self.column == sa.any_(sa.cast(list(ids), postgresql.ARRAY(kind)))

    def canonical(self, connection: sa.Connection, value: str) -> str:
        """As the column gives it back."""
        return (canonical_uuid(value) if self._uuid(connection) else None) or value

    def as_asked(
        self, connection: sa.Connection, ids: Iterable[str], found: Mapping[str, T]
    ) -> dict[str, T]:
        """`found`, by ids of the column, under those of `ids`, where UUIDs may be in capitals."""
        spelled = {value: self.canonical(connection, value) for value in ids}
        return {value: found[key] for value, key in spelled.items() if key in found}

    def _uuid(self, connection: sa.Connection) -> bool:
        if self._is_uuid is None:
            columns = sa.inspect(connection).get_columns(self.column.table.name)
            self._is_uuid = any(
                column["name"] == self.column.name and isinstance(column["type"], sa.Uuid)
                for column in columns
            )
        return self._is_uuid


class RowSet(ABC):
    """Rows of one kind; `owner` is the user or project that waits for the derivative."""

    belongs: sa.ColumnElement[bool] = sa.true()
    """Whether a row of the table is of this kind."""
    counts = belongs
    """Whether it is finished, too."""
    unusable: sa.ColumnElement[bool]
    """Whether a row, of any kind in its table, can never be used."""

    def __init__(self, key: sa.Column, owner: sa.Column, *columns: sa.ColumnElement) -> None:
        self.key = IdColumn(key)
        self.owner = as_text(owner)
        # The cast reads times without a zone as UTC.
        self.time = sa.cast(row_time(key.table), TIME)
        self.place = sa.tuple_(self.time, self.key.text)
        self._columns = columns

    @abstractmethod
    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        """Values of rows of `select`, in order."""

    def select(self) -> sa.Select:
        key, time = self.key.text.label("id"), self.time.label("changed_at")
        return sa.select(key, time, *self._columns)

    def among(
        self, connection: sa.Connection, ids: Iterable[str], *conditions: sa.ColumnElement[bool]
    ) -> Sequence[sa.Row]:
        """Rows of `select`, in no order."""
        wanted = self.key.bindable(connection, ids)
        if not wanted:
            return []
        is_one = self.key.among(connection, wanted)
        return connection.execute(self.select().where(is_one, *conditions)).all()

    def by_id(self, connection: sa.Connection, ids: Iterable[str]) -> dict[str, Row | UnusableRow]:
        """Those of `ids` that count."""
        wanted = list(ids)
        found = self.parse(connection, self.among(connection, wanted, self.counts))
        return self.key.as_asked(connection, wanted, {row.id: row for row in found})


def sha256_of(text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """In hex; a server in FIPS mode has no MD5."""
    return sa.func.encode(sa.func.sha256(sa.func.convert_to(text, "UTF8")), "hex")


@functools.cache
def digest_query(rows: RowSet, *, is_first: bool) -> sa.Select:
    """Of `Catalog.digest`; `is_first`: no position is known. Building it takes a millisecond."""
    is_later: sa.ColumnElement[bool] = sa.true()
    is_set_back: sa.ColumnElement[bool] = sa.false()
    since = sa.func.now() - _DIGESTED
    if not is_first:
        time = sa.bindparam("time", type_=TIME)
        is_later = rows.place > sa.tuple_(time, sa.bindparam("id", type_=sa.Text))
        is_set_back = sa.func.now() < time
        since = sa.func.greatest(sa.bindparam("since", type_=TIME), since)
    newest = (
        sa.select(rows.key.text.label("id"), rows.time.label("time"), is_later.label("later"))
        .where(rows.counts, rows.time >= since)
        .order_by(rows.time.desc(), rows.key.text.desc())
        .limit(_MOST_DIGESTED)
        .subquery()
    )
    line = sa.func.concat(newest.c.id, " ", newest.c.time)
    lines = sa.func.string_agg(line, postgresql.aggregate_order_by(sa.literal(","), newest.c.id))
    return sa.select(sha256_of(lines), sa.func.bool_or(newest.c.later), is_set_back)


class AssetRows(RowSet):
    def __init__(self, generations: RowSet) -> None:
        super().__init__(
            project_assets.c.asset_id,
            project_assets.c.project_id,
            text_of(project_assets.c.project_id),
            text_of(project_assets.c.generation_id),
            project_assets.c.asset_url,
        )
        self.unusable = is_no_key(self.key.text)
        self._generations = generations

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        found = self._with_generations(connection, rows)
        return [
            _asset(row, *shots.resolve(row.project_id, [shots.Entry(row.id)], *found))
            for row in rows
        ]

    def found(self, connection: sa.Connection, ids: Iterable[str]) -> _Found:
        """Assets and their generations, by id."""
        wanted = list(ids)
        assets, generations = self._with_generations(connection, self.among(connection, wanted))
        return self.key.as_asked(connection, wanted, assets), generations

    def _with_generations(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> _Found:
        assets = {
            row.id: shots.Asset(
                row.project_id, row.generation_id, row.asset_url, known_time(row.changed_at)
            )
            for row in rows
        }
        named = {row.generation_id for row in rows if row.generation_id}
        generated = {
            row.id: shots.ShotGeneration(
                row.kind, row.status, row.asset_url, known_time(row.changed_at)
            )
            for row in self._generations.among(connection, named)
        }
        return assets, self._generations.key.as_asked(connection, named, generated)


class MasterRows(RowSet):
    def __init__(self, assets: AssetRows) -> None:
        super().__init__(
            master_videos.c.master_id,
            master_videos.c.project_id,
            text_of(master_videos.c.project_id),
            text_of(master_videos.c.name),
            master_videos.c.shots_config,
        )
        self.unusable = sa.or_(is_no_key(self.key.text), is_no_key(self.owner))
        self._assets = assets

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        configs = [shots.read_config(row.shots_config) for row in rows]
        found = self._assets.found(
            connection, {entry.asset_id for entries, _ in configs for entry in entries}
        )
        return [
            _master(row, shots.resolve(row.project_id, entries, *found), problem)
            for row, (entries, problem) in zip(rows, configs, strict=True)
        ]


class ScaledRows(RowSet):
    def __init__(self, masters: MasterRows) -> None:
        super().__init__(
            scaled_videos.c.scaled_id,
            scaled_videos.c.master_id,
            text_of(scaled_videos.c.master_id),
            *(scaled_videos.c[name] for name in _SCALED_COLUMNS),
        )
        missing = [scaled_videos.c[name].is_(None) for name in ("master_id", "width", "height")]
        self.unusable = sa.or_(is_no_key(self.key.text), *missing)
        self._masters = masters
        self._has_additions = False

    def parse(self, connection: sa.Connection, rows: Sequence[sa.Row]) -> list[Row | UnusableRow]:
        masters = self._masters.by_id(connection, {row.master_id for row in rows if row.master_id})
        added = self._additions(connection, [row.id for row in rows if row.id])
        return [_scaled(row, masters.get(row.master_id), added.get(row.id)) for row in rows]

    def has_additions(self, connection: sa.Connection) -> bool:
        """Whether the table has the columns `ADDED`."""
        self._has_additions = self._has_additions or readable_additions(connection)
        return self._has_additions

    def _additions(self, connection: sa.Connection, ids: Sequence[str]) -> dict[str, sa.Row]:
        """By id. A query of their own: a host's table may lack them."""
        if not ids or not self.has_additions(connection):
            return {}
        wanted = self.key.among(connection, self.key.bindable(connection, ids))
        columns = (as_text(scaled_videos.c[name]).label(name) for name in ADDED)
        found = connection.execute(sa.select(self.key.text.label("id"), *columns).where(wanted))
        return {row.id: row for row in found}


def _asset(row: sa.Row, shot: shots.Shot) -> ProjectAsset | UnusableRow:
    unusable = key_problem("asset_id", row.id)
    if unusable:
        return UnusableRow(row.id, unusable)
    return ProjectAsset(row.id, shot, row.generation_id, row.asset_url)


def _master(
    row: sa.Row, found: Sequence[shots.Shot], problem: str | None
) -> MasterVideo | UnusableRow:
    unusable = key_problem("master_id", row.id) or key_problem("project_id", row.project_id or "")
    if unusable:
        return UnusableRow(row.id, unusable)
    times = [known_time(row.changed_at), *(shot.finished_at for shot in found)]
    latest = max((time for time in times if time), default=None)
    return MasterVideo(row.id, row.project_id, row.name or "", tuple(found), latest, problem)


def _scaled(
    row: sa.Row, master: Row | UnusableRow | None, added: sa.Row | None
) -> ScaledVideo | UnusableRow:
    missing = [name for name in ("master_id", "width", "height") if getattr(row, name) is None]
    unusable = f"{missing[0]} is NULL" if missing else key_problem("scaled_id", row.id)
    if unusable:
        return UnusableRow(row.id, unusable)
    try:
        of_order = _of_order(added) if added else {}
    except ValueError as error:
        return UnusableRow(row.id, str(error))
    return ScaledVideo(
        id=row.id,
        master_id=row.master_id,
        **{name: getattr(row, name) for name in _SCALED_COLUMNS},
        finished_at=known_time(row.changed_at),
        master=master if isinstance(master, MasterVideo) else None,
        **of_order,
    )


def _of_order(added: sa.Row) -> dict[str, Any]:
    """Raises ValueError: a host's own table holds another value."""
    fill = (added.fill or "").removesuffix(ENLARGED)
    if fill and fill not in set(Fill):
        raise ValueError(f"fill is {added.fill!r}, and not one of {', '.join(Fill)}")
    return {
        "fill": Fill(fill) if fill else None,
        "enlarged": (added.fill or "").endswith(ENLARGED),
        "focus": _focus(added.focus) if added.focus else None,
        "order_id": added.order_id,
    }


def _focus(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"([01]|[01]?\.\d+),([01]|[01]?\.\d+)", text)
    focus = (float(found[1]), float(found[2])) if found else (2.0, 2.0)
    if max(focus) > 1:
        raise ValueError(f"focus is {text!r}, and not two numbers from 0 to 1 such as 0.5,0.25")
    return focus


def is_no_key(text: sa.ColumnElement) -> sa.ColumnElement[bool]:
    return sa.or_(text.is_(None), text.op("!~")(_GOOD_KEY), text.like("%..%"))


def _is_text(value: str) -> bool:
    """PostgreSQL holds no NUL and no surrogate."""
    return "\0" not in value and not any("\ud800" <= one <= "\udfff" for one in value)
