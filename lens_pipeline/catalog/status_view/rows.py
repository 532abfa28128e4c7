"""The rows behind the views: written, counted, compared.

Rows without an asset are marks: the time `kept` until which a process keeps the copy true, and the
time `compared` of the last look at every row.
"""

import datetime as dt
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lens_pipeline.catalog.permissions import exists
from lens_pipeline.catalog.row_types import RowSet
from lens_pipeline.catalog.status_view.schema import (
    MASTER_ASSET,
    derivatives,
    master_derivatives,
    present,
    version,
)

_FINGERPRINT_SINCE = 3
_MARKED = sa.text(
    """
    SELECT count(*) = 2 FROM lens_derivatives
     WHERE asset = '' AND (id = 'kept' AND changed_at > now()
        OR id = 'compared' AND changed_at > now() - make_interval(secs => :seconds))
    """
)
# Without `seconds`, until another process says otherwise.
_MARK = """
    INSERT INTO {table} (asset, id, status, changed_at)
    SELECT '', id, '', at FROM (VALUES
      ('compared', CASE WHEN :compared THEN now() END),
      ('kept', coalesce(now() + make_interval(secs => CAST(:seconds AS float)), 'infinity'))
    ) AS marks (id, at) WHERE at IS NOT NULL
    ON CONFLICT (asset, id) DO UPDATE SET changed_at = excluded.changed_at
"""
_DELETE_ORPHANS = """
    DELETE FROM {table} d
     WHERE d.asset <> ''
       AND NOT EXISTS (SELECT FROM {source} s WHERE CAST(s.{key} AS text) = d.id)
"""
_WRITE_PROGRESS = sa.text(
    """
    UPDATE lens_master_derivatives d SET progress = p.percent
      FROM unnest(CAST(:ids AS text[]), CAST(:percents AS integer[])) AS p(id, percent)
     WHERE d.asset = :asset AND d.id = p.id AND d.status = 'processing'
    """
)


def mark(connection: sa.Connection, seconds: float | None, *, compared: bool) -> None:
    """Say that the copy is kept true for `seconds`, or without a limit."""
    for one in present(connection):
        statement = sa.text(_MARK.format(table=one.table.name))
        connection.execute(statement, {"seconds": seconds, "compared": compared})


def is_marked(connection: sa.Connection, seconds: float) -> bool:
    """Whether the copy is kept true, and was compared within `seconds`."""
    return bool(connection.scalar(_MARKED, {"seconds": seconds}))


def write(
    connection: sa.Connection,
    asset: str,
    rows: Mapping[str, Mapping[str, object]],
    gone: Sequence[str],
) -> int:
    """Show `rows` (columns by name, by id), and none of `gone`. Returns the number of changes."""
    table = _table_of(asset)
    if not exists(connection, table.name):
        return 0
    names = _shown_columns(connection, table)
    shown = _read(connection, asset, [*rows, *gone], names)
    values = [
        {"asset": asset, "id": key, **{name: columns[name] for name in (*names, "changed_at")}}
        for key, columns in rows.items()
        if shown.get(key) != tuple(columns[name] for name in names)
    ]
    if values:
        statement = postgresql.insert(table).values(values)
        new: dict[str, sa.ColumnElement] = {
            name: statement.excluded[name] for name in (*names, "changed_at")
        }
        if "progress" in table.c:
            # That of another attempt is none.
            is_same = table.c.status == statement.excluded.status
            new["progress"] = sa.case((is_same, table.c.progress))
        connection.execute(
            statement.on_conflict_do_update(index_elements=["asset", "id"], set_=new)
        )
    dropped = [key for key in gone if key in shown]
    if dropped:
        connection.execute(sa.delete(table).where(*_are(asset, dropped)))
    return len(values) + len(dropped)


def write_progress(connection: sa.Connection, percents: Mapping[str, int | None]) -> None:
    """Of masters under way, by id."""
    if exists(connection, master_derivatives.name):
        values = {"ids": [*percents], "percents": [*percents.values()], "asset": MASTER_ASSET}
        connection.execute(_WRITE_PROGRESS, values)


def fingerprints(
    connection: sa.Connection, asset: str, ids: Sequence[str]
) -> dict[str, str | None]:
    """Of generations, by id, as they are shown; empty in older tables."""
    if "fingerprint" not in _shown_columns(connection, _table_of(asset)):
        return {}
    return {key: row[0] for key, row in _read(connection, asset, ids, ["fingerprint"]).items()}


def _table_of(asset: str) -> sa.Table:
    return master_derivatives if asset == MASTER_ASSET else derivatives


def _shown_columns(connection: sa.Connection, table: sa.Table) -> list[str]:
    """`changed_at` changes only with these."""
    has_fingerprint = "fingerprint" in table.c and (version(connection) or 0) >= _FINGERPRINT_SINCE
    return ["status", "path", "error", *(["fingerprint"] if has_fingerprint else [])]


def _read(
    connection: sa.Connection, asset: str, ids: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[str | None, ...]]:
    table = _table_of(asset).c
    query = sa.select(table.id, *(table[name] for name in names)).where(*_are(asset, ids))
    return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def _are(asset: str, ids: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    table = _table_of(asset).c
    return table.asset == asset, table.id == sa.any_(
        sa.cast(list(ids), postgresql.ARRAY(sa.Text()))
    )


def unsettled(
    connection: sa.Connection,
    rows: RowSet,
    asset: str,
    wanted: sa.ColumnElement[str],
    limit: int,
) -> list[str]:
    """Up to `limit` ids of finished rows that are not shown as ready or dead as they are now.

    `wanted`: the fingerprint of a row.
    """
    table = derivatives.c
    is_settled = sa.exists().where(
        table.asset == asset,
        table.id == rows.key.text,
        table.status.in_(("ready", "dead")),
        table.fingerprint == wanted,
    )
    query = sa.select(rows.key.text.label("id")).where(rows.counts, sa.not_(is_settled))
    # The limit must not make the planner look each row up.
    found = query.cte("found").prefix_with("MATERIALIZED")
    return list(connection.execute(sa.select(found.c.id).limit(limit)).scalars())


def counts(
    connection: sa.Connection, rows: RowSet, asset: str
) -> dict[str, tuple[int, dt.datetime | None]]:
    """Usable finished rows by status: how many, and the time of the oldest."""
    table = derivatives.c
    status = sa.func.coalesce(table.status, "none").label("status")
    own = rows.key.column.table
    joined = own.outerjoin(derivatives, (table.asset == asset) & (table.id == rows.key.text))
    query = (
        sa.select(status, sa.func.count(), sa.func.min(rows.time))
        .select_from(joined)
        .where(rows.counts, sa.not_(rows.unusable))
        .group_by(status)
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(query)}


def delete_orphans(connection: sa.Connection) -> int:
    """Delete what is of no row; returns the number.

    Nothing would tell of an unfinished one that finishes again with the same file.
    """
    statements = [
        _DELETE_ORPHANS.format(table=one.table.name, source=one.source.name, key=one.read[0])
        for one in present(connection)
        if exists(connection, one.source.name)
    ]
    return sum(connection.execute(sa.text(statement)).rowcount for statement in statements)
