"""Rows of projects: listed newest first, added and deleted."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lens_pipeline.catalog.generations import Place
from lens_pipeline.catalog.row_types import IdColumn, RowSet, as_text, place
from lens_pipeline.catalog.rows import Kind, MasterVideo, ProjectAsset, ScaledVideo
from lens_pipeline.catalog.tables import (
    TIME,
    master_videos,
    project_assets,
    row_time,
    scaled_videos,
)
from lens_pipeline.catalog.titles import pattern_of
from lens_pipeline.core.locks import lock_id
from lens_pipeline.errors import InvalidRow

# Of this database's sessions. A row lock needs the right to update.
_HOLD = sa.text("SELECT pg_advisory_xact_lock(:key)")
# For a host's rows without a time.
_NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# A host's columns need not have defaults.
_TIMES = ("created_at", "updated_at")
# The projects of this many masters come first.
_LATEST_MASTERS = 500


R = TypeVar("R", bound=MasterVideo | ProjectAsset | ScaledVideo)


@dataclass(frozen=True, slots=True)
class Listed(Generic[R]):
    row: R
    project_id: str
    created_at: dt.datetime | None
    changed_at: dt.datetime | None

    @property
    def place(self) -> Place:
        return Place(self.created_at or _NEVER, self.row.id)


class ProjectRows:
    """Usable rows of one kind, by project."""

    def __init__(self, kind: Kind, rows: RowSet) -> None:
        self._kind = kind
        self._rows = rows
        self.table: sa.Table = rows.key.column.table
        self._masters = IdColumn(master_videos.c.master_id)
        self._master_of_scaled = IdColumn(scaled_videos.c.master_id)
        self._order = IdColumn(scaled_videos.c.order_id)
        of_master, of_asset = master_videos.c.project_id, project_assets.c.project_id
        self._project = IdColumn(of_asset if kind is Kind.SHOT else of_master)

    def page(
        self,
        connection: sa.Connection,
        project_id: str,
        after: Place | None,
        limit: int,
        masters: Sequence[str] | None = None,
        orders: Sequence[str] | None = None,
    ) -> list[Listed]:
        """Rows created before the place `after`, newest first; renditions of `masters` or of
        `orders` alone.
        """
        time, key = sa.func.coalesce(self._created, _NEVER), self._rows.key.text
        conditions: list[sa.ColumnElement[bool]] = []
        if after is not None:
            conditions.append(sa.tuple_(time, key) < place(after.changed_at, after.id))
        if masters is not None:
            wanted = self._master_of_scaled.bindable(connection, masters)
            conditions.append(self._master_of_scaled.among(connection, wanted))
        if orders is not None:
            known = self._order.bindable(connection, orders)
            conditions.append(self._order.among(connection, known))
        order = (time.desc(), key.desc())
        return self._listed(connection, project_id, conditions, order, limit)

    def among(
        self, connection: sa.Connection, project_id: str, ids: Iterable[str]
    ) -> dict[str, Listed]:
        """By id."""
        asked = list(ids)
        wanted = self._rows.key.bindable(connection, asked)
        conditions = [self._rows.key.among(connection, wanted)]
        found = self._listed(connection, project_id, conditions, (), None)
        return self._rows.key.as_asked(connection, asked, {one.row.id: one for one in found})

    def counts(self, connection: sa.Connection, master_ids: Iterable[str]) -> dict[str, int]:
        """Of renditions, by master."""
        wanted = self._master_of_scaled.bindable(connection, master_ids)
        query = (
            sa.select(self._master_of_scaled.text.label("id"), sa.func.count().label("total"))
            .where(self._master_of_scaled.among(connection, wanted))
            .where(sa.not_(self._rows.unusable))
            .group_by(scaled_videos.c.master_id)
        )
        return {row.id: row.total for row in connection.execute(query)}

    def insert(
        self, connection: sa.Connection, project_id: str, new: Mapping[str, Mapping[str, Any]]
    ) -> bool:
        """Values of rows by id. False: a row has one of the ids already, and is left as it is.

        Raises InvalidRow: the master of a rendition is gone.
        """
        if self._kind is Kind.SCALED:
            for master_id in dict.fromkeys(values["master_id"] for values in new.values()):
                self._hold_master(connection, master_id)
        key = self._rows.key
        own = {name: sa.func.now() for name in _TIMES} | {"project_id": project_id}
        shared = {name: value for name, value in own.items() if name in self.table.c}
        rows = [
            {**shared, key.column.name: key.bound(connection, row_id), **values}
            for row_id, values in new.items()
        ]
        statement = postgresql.insert(self.table).values(rows).on_conflict_do_nothing()
        return connection.execute(statement).rowcount == len(rows)

    def rename(self, connection: sa.Connection, project_id: str, row_id: str, name: str) -> bool:
        """Of a master; its time stays, since its video does. False: there is no row to change."""
        this = self._rows.key.equals(connection, row_id)
        own = self._project.equals(connection, project_id)
        statement = sa.update(self.table).where(this, own).values(name=name)
        return connection.execute(statement).rowcount > 0

    def named(self, connection: sa.Connection, project_id: str, name: str, limit: int) -> list[str]:
        """Ids of masters."""
        own = self._project.equals(connection, project_id)
        like = as_text(self.table.c.name).regexp_match(f"^{pattern_of(name)}$")
        query = sa.select(self._rows.key.text).where(own, like).limit(limit)
        return list(connection.execute(query).scalars())

    def delete(self, connection: sa.Connection, row_id: str) -> list[str] | None:
        """Returns the ids of a master's renditions, deleted with it; None: there is no row."""
        renditions: list[str] = []
        if self._kind is Kind.MASTER:
            _hold(connection, row_id)
            of_master = self._master_of_scaled.among(
                connection, self._master_of_scaled.bindable(connection, [row_id])
            )
            query = sa.delete(scaled_videos).where(of_master)
            key = as_text(scaled_videos.c.scaled_id)
            renditions += connection.execute(query.returning(key)).scalars()
        wanted = self._rows.key.bindable(connection, [row_id])
        this = self._rows.key.among(connection, wanted)
        count = connection.execute(sa.delete(self.table).where(this)).rowcount
        return renditions if count else None

    def _hold_master(self, connection: sa.Connection, master_id: str) -> None:
        """Until the end of the transaction it is not deleted: its rendition would stay, unseen.

        Raises InvalidRow: there is none.
        """
        _hold(connection, master_id)
        query = sa.select(self._masters.text).where(self._masters.equals(connection, master_id))
        if connection.execute(query).scalar() is None:
            raise InvalidRow(f"there is no master {master_id!r}")

    @property
    def _created(self) -> sa.ColumnElement:
        return sa.cast(self.table.c.created_at, TIME)

    def _listed(
        self,
        connection: sa.Connection,
        project_id: str,
        conditions: Sequence[sa.ColumnElement[bool]],
        order: Sequence[sa.ColumnElement],
        limit: int | None,
    ) -> list[Listed]:
        if not self._project.bindable(connection, [project_id]):
            return []
        query = (
            self._rows.select()
            .add_columns(self._created.label("created_at"))
            .where(self._belongs(connection, project_id), *conditions)
            .where(sa.not_(self._rows.unusable))
            .order_by(*order)
            .limit(limit)
        )
        found = connection.execute(query).all()
        return [
            Listed(row, project_id, raw.created_at, raw.changed_at)
            for raw, row in zip(found, self._rows.parse(connection, found), strict=True)
            if isinstance(row, MasterVideo | ProjectAsset | ScaledVideo)
        ]

    def _belongs(self, connection: sa.Connection, project_id: str) -> sa.ColumnElement[bool]:
        own = self._project.equals(connection, project_id)
        if self._kind is not Kind.SCALED:
            return own
        # No join: a host's columns may be of different types.
        masters = connection.execute(sa.select(self._masters.text).where(own)).scalars().all()
        ids = self._master_of_scaled.bindable(connection, masters)
        return self._master_of_scaled.among(connection, ids)


def _hold(connection: sa.Connection, master_id: str) -> None:
    # A uuid may be given in capitals.
    connection.execute(_HOLD, {"key": lock_id("master", master_id.lower())})


def read_project_ids(connection: sa.Connection, limit: int) -> list[str]:
    """Projects of the latest masters, newest first, then those of assets."""
    latest = (
        sa.select(
            as_text(master_videos.c.project_id).label("id"), row_time(master_videos).label("at")
        )
        .order_by(row_time(master_videos).desc())
        .limit(_LATEST_MASTERS)
        .subquery()
    )
    recent = sa.select(latest.c.id).group_by(latest.c.id).order_by(sa.func.max(latest.c.at).desc())
    found = connection.execute(recent).scalars().all()
    others = connection.execute(_of_assets(limit)).scalars().all()
    return list(dict.fromkeys([*found, *others]))[:limit]


def _of_assets(limit: int) -> sa.Select:
    """Each id is found by the index, without a scan of the table."""
    project = project_assets.c.project_id
    first = sa.select(project.label("id")).order_by(project).limit(1)
    known = sa.select(first.subquery().c.id).cte("known", recursive=True)
    following = (
        sa.select(project).where(project > known.c.id).order_by(project).limit(1).scalar_subquery()
    )
    known = known.union_all(sa.select(following).where(known.c.id.is_not(None)))
    return sa.select(sa.cast(known.c.id, sa.Text)).where(known.c.id.is_not(None)).limit(limit)
