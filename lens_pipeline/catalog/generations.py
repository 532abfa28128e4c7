"""Generations as a library shows them: newest first, finished or not."""

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from lens_pipeline.catalog.row_types import IdColumn, as_text, is_no_key
from lens_pipeline.catalog.rows import FINISHED, Generation, Kind
from lens_pipeline.catalog.tables import TIME, generations, row_time
from lens_pipeline.core.ids import key_problem

_TIME = sa.cast(row_time(generations), TIME)


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """A row of `generations`, whatever its status."""

    id: str
    user_id: str
    kind: Kind
    status: str
    asset_url: str
    created_at: dt.datetime | None
    changed_at: dt.datetime | None

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    def generation(self) -> Generation:
        """What its derivative is made from, once it is finished."""
        return Generation(self.id, self.user_id, self.kind, self.asset_url, self.changed_at)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which generations are listed; None: not restricted."""

    user_id: str | None = None
    kind: Kind | None = None
    finished: bool | None = None
    ids: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ends, in the order (time of the row, id)."""

    changed_at: dt.datetime
    id: str


def read_page(
    connection: sa.Connection, key: IdColumn, selection: Selection, after: Place | None, limit: int
) -> list[ListedGeneration]:
    """Up to `limit` generations older than the place `after`, newest first.

    Rows that can never be used (their ids could not be part of a key) or have no time are left out:
    `lens dead-letters` tells of them.
    """
    user = generations.c.user_id
    conditions: list[sa.ColumnElement[bool]] = [
        generations.c.type.in_([Kind.PHOTO.value, Kind.VIDEO.value]),
        _TIME.is_not(None),
        # Left out here rather than afterwards: a page that is not full is taken for the last.
        sa.not_(is_no_key(key.text)),
        sa.not_(is_no_key(as_text(user))),
    ]
    if selection.user_id is not None:
        user_key = IdColumn(user)
        if not user_key.bindable(connection, [selection.user_id]):
            return []
        conditions.append(user == user_key.bound(connection, selection.user_id))
    if selection.kind is not None:
        conditions.append(generations.c.type == selection.kind.value)
    if selection.finished is not None:
        is_finished = generations.c.status.in_(FINISHED)
        conditions.append(is_finished if selection.finished else sa.not_(is_finished))
    if selection.ids is not None:
        conditions.append(key.among(connection, key.bindable(connection, selection.ids)))
    if after is not None:
        place = sa.tuple_(sa.literal(after.changed_at, TIME), sa.literal(after.id, sa.Text))
        conditions.append(sa.tuple_(_TIME, key.text) < place)
    query = _select(key).where(*conditions).order_by(_TIME.desc(), key.text.desc()).limit(limit)
    return _usable(connection.execute(query))


def read_rows(
    connection: sa.Connection, key: IdColumn, ids: Iterable[str]
) -> dict[str, ListedGeneration]:
    """Those of `ids` that are generations, by id."""
    wanted = key.bindable(connection, ids)
    if not wanted:
        return {}
    rows = connection.execute(_select(key).where(key.among(connection, wanted)))
    return {row.id: row for row in _usable(rows)}


def _select(key: IdColumn) -> sa.Select:
    return sa.select(
        key.text.label("id"),
        as_text(generations.c.user_id).label("user_id"),
        generations.c.type.label("type"),
        generations.c.status.label("status"),
        generations.c.asset_url.label("asset_url"),
        sa.cast(generations.c.created_at, TIME).label("created_at"),
        _TIME.label("changed_at"),
    )


def _usable(rows: Iterable[sa.Row]) -> list[ListedGeneration]:
    return [
        ListedGeneration(
            row.id,
            row.user_id,
            Kind(row.type),
            row.status,
            row.asset_url or "",
            row.created_at,
            row.changed_at,
        )
        for row in rows
        if row.type in {Kind.PHOTO.value, Kind.VIDEO.value}
        and not key_problem("id", row.id)
        and not key_problem("user_id", row.user_id or "")
    ]
