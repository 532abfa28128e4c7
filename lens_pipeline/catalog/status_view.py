"""`lens_generations`: generations with the status of their preview or poster, for SQL readers.

Dagster's tables lie in another database: statuses are copied to `lens_derivatives`, which decides
nothing and can be made anew. Rows of it without an asset are marks: the time `kept` until which a
process keeps the copy true, and the time `compared` of the last look at every generation.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from lens_pipeline.catalog import tables
from lens_pipeline.catalog.generations import Layout
from lens_pipeline.catalog.permissions import (
    Lack,
    current_role,
    exists,
    is_kept_out,
    may,
    migration_advice,
    owner,
    quoted,
)
from lens_pipeline.catalog.row_types import RowSet
from lens_pipeline.catalog.rows import FINISHED, Kind
from lens_pipeline.catalog.tables import TIME

VIEW = "lens_generations"
TABLE = "lens_derivatives"
# Of table and view, in the view's comment: raise it whenever one of the two changes.
VERSION = 3
_ACTIONS = ("SELECT", "INSERT", "UPDATE", "DELETE")

derivatives = sa.Table(
    TABLE,
    sa.MetaData(),
    sa.Column("asset", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("path", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("changed_at", TIME, nullable=False),
    # Of the row that has this status, see `generations.fingerprint`; from version 3 on.
    sa.Column("fingerprint", sa.Text),
)
# `changed_at` changes only with these.
_SHOWN = ("status", "path", "error", "fingerprint")

# Replacing keeps the grants; it can add columns only at the end. Times without a zone are in UTC,
# whatever the session's zone. An unfinished row has no derivative, whatever it had before.
_VIEW = """
    CREATE OR REPLACE VIEW lens_generations AS
    SELECT g.id, g.user_id, g.type, g.status,
           CASE WHEN d.status IS NOT NULL THEN d.status
                WHEN EXISTS (SELECT FROM lens_derivatives m
                              WHERE m.asset = '' AND m.id = 'kept' AND m.changed_at > now())
                THEN 'none' END AS preview_status,
           CASE d.asset WHEN 'preview' THEN d.path END AS preview_path,
           CASE d.asset WHEN 'poster' THEN d.path END AS poster_path,
           d.error,
           greatest({row_time}, d.changed_at) AS updated_at
      FROM generations g
      LEFT JOIN lens_derivatives d
        ON d.id = CAST(g.id AS text)
       AND CAST(g.status AS text) IN ({finished})
       AND d.asset = CASE CAST(g.type AS text) {assets} END
"""
_NEW_COLUMN = f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS fingerprint text"
# Defaults of a host such as Supabase may open them to all.
_CLOSURE = """
    DO $$ DECLARE grantee text; BEGIN
      FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END
          FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
          LEFT JOIN pg_roles r ON r.oid = a.grantee
         WHERE c.oid = to_regclass('{name}') AND a.grantee <> c.relowner
      LOOP EXECUTE 'REVOKE ALL ON {name} FROM ' || grantee; END LOOP;
    END $$
"""
_COMMENT = sa.text("SELECT obj_description(to_regclass('lens_generations'), 'pg_class')")
_MARKED = sa.text(
    """
    SELECT count(*) = 2 FROM lens_derivatives
     WHERE asset = '' AND (id = 'kept' AND changed_at > now()
        OR id = 'compared' AND changed_at > now() - make_interval(secs => :seconds))
    """
)
# Without `seconds`, until another process says otherwise.
_MARK = sa.text(
    """
    INSERT INTO lens_derivatives (asset, id, status, changed_at)
    SELECT '', id, '', at FROM (VALUES
      ('compared', CASE WHEN :compared THEN now() END),
      ('kept', coalesce(now() + make_interval(secs => CAST(:seconds AS float)), 'infinity'))
    ) AS marks (id, at) WHERE at IS NOT NULL
    ON CONFLICT (asset, id) DO UPDATE SET changed_at = excluded.changed_at
    """
)
_DELETE_ORPHANS = sa.text(
    """
    DELETE FROM lens_derivatives d
     WHERE d.asset <> '' AND NOT EXISTS (
       SELECT FROM generations g
        JOIN unnest(CAST(:assets AS text[]), CAST(:types AS text[])) AS k(asset, type)
          ON k.type = CAST(g.type AS text)
        WHERE CAST(g.id AS text) = d.id AND d.asset = k.asset)
    """
)


def version(connection: sa.Connection) -> int | None:
    """None: there is no view."""
    return _version(connection)[0] if exists(connection, VIEW) else None


def _version(connection: sa.Connection) -> tuple[int, str]:
    """The version of the view, and the types of which it is, as in the settings."""
    comment = connection.scalar(_COMMENT) or ""
    found = re.search(r"version (\d+)(?: of (\S+))?$", comment)
    return (int(found[1]), found[2] or Layout().types_text) if found else (1, "")


def migration(connection: sa.Connection, layout: Layout) -> list[str]:
    """The statements that make or update table and view; new ones are for their owner alone."""
    if exists(connection, VIEW) and age_note(connection, layout) is None:
        return []
    absent = [name for name in (TABLE, VIEW) if not exists(connection, name)]
    finished = ", ".join(f"'{status}'" for status in FINISHED)
    of_types = "" if layout.types == Layout().types else f" of {layout.types_text}"
    shown = {Kind.PHOTO: "preview", Kind.VIDEO: "poster"}
    assets = " ".join(
        f"WHEN '{one}' THEN '{asset}'"
        for kind, asset in shown.items()
        for one in layout.types_of(kind)
    )
    table = CreateTable(derivatives).compile(dialect=connection.dialect)
    return [
        str(table) if TABLE in absent else _NEW_COLUMN,
        _VIEW.format(row_time=_row_time(connection), finished=finished, assets=assets),
        f"COMMENT ON VIEW {VIEW} IS 'Lens Pipeline, version {VERSION}{of_types}'",
        *(_CLOSURE.format(name=name) for name in absent),
    ]


def grants(connection: sa.Connection, role: str) -> list[str]:
    """The statements by which `role` may keep the view true."""
    to = quoted(connection, role)
    statements = []
    is_there = exists(connection, TABLE)
    if not is_there or not all(may(connection, one, TABLE, role=role) for one in _ACTIONS):
        statements.append(f"GRANT {', '.join(_ACTIONS)} ON {TABLE} TO {to}")
    if any(is_kept_out(connection, one, TABLE, role) for one in _ACTIONS):
        policy = f"CREATE POLICY lens_writes ON {TABLE} TO {to}"
        statements.append(f"{policy} USING (true) WITH CHECK (true)")
    return statements


def lack(connection: sa.Connection) -> Lack | None:
    """Why this role does not keep the view; None: it may."""
    if version(connection) is None:
        advice = migration_advice(connection) or "run `lens migrate`"
        return Lack(f"{VIEW}, for pages that read SQL, does not exist: {advice}", is_whole=True)
    role = current_role(connection)
    statements = grants(connection, role)
    if statements:
        problem = f"{VIEW} is not kept true, as role {role} may not write {TABLE}"
        said = f"{problem}: let {owner(connection, TABLE)} run {'; '.join(statements)}"
        return Lack(said, is_whole=False)
    return None


def age_note(connection: sa.Connection, layout: Layout) -> str | None:
    """What to do about an older view, or one of other types; None: it is well, or absent."""
    if not exists(connection, VIEW):
        return None
    found, types = _version(connection)
    if found < VERSION:
        problem = f"is of version {found}, and this program knows {VERSION}"
    elif found == VERSION and types != layout.types_text:
        problem = f"is of other types than LENS_TYPES={layout.types_text}"
    else:
        return None
    return f"{VIEW} {problem}: {migration_advice(connection, VIEW) or 'run `lens migrate`'}"


def mark(connection: sa.Connection, seconds: float | None, *, compared: bool) -> None:
    """Say that the copy is kept true for `seconds`, or without a limit."""
    connection.execute(_MARK, {"seconds": seconds, "compared": compared})


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
    names = _SHOWN if (version(connection) or 0) >= VERSION else _SHOWN[:-1]
    shown = _read(connection, asset, [*rows, *gone], names)
    values = [
        {"asset": asset, "id": key, **{name: columns[name] for name in (*names, "changed_at")}}
        for key, columns in rows.items()
        if shown.get(key) != tuple(columns[name] for name in names)
    ]
    if values:
        statement = postgresql.insert(derivatives).values(values)
        new: Mapping[str, sa.ColumnElement] = {
            name: statement.excluded[name] for name in (*names, "changed_at")
        }
        connection.execute(
            statement.on_conflict_do_update(index_elements=["asset", "id"], set_=new)
        )
    dropped = [key for key in gone if key in shown]
    if dropped:
        connection.execute(sa.delete(derivatives).where(*_are(asset, dropped)))
    return len(values) + len(dropped)


def _read(
    connection: sa.Connection, asset: str, ids: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[str | None, ...]]:
    table = derivatives.c
    query = sa.select(table.id, *(table[name] for name in names)).where(*_are(asset, ids))
    return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def _are(asset: str, ids: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    wanted = sa.cast(list(ids), postgresql.ARRAY(sa.Text()))
    return derivatives.c.asset == asset, derivatives.c.id == sa.any_(wanted)


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


def delete_orphans(connection: sa.Connection, types: Sequence[tuple[str, str]]) -> int:
    """Delete what is of no generation; returns the number.

    Nothing would tell of an unfinished one that finishes again with the same file. `types`: each
    asset with each `type` of its generations.
    """
    values = {"assets": [asset for asset, _ in types], "types": [one for _, one in types]}
    return connection.execute(_DELETE_ORPHANS, values).rowcount


def _row_time(connection: sa.Connection) -> str:
    """SQL for when a row last changed."""
    # Where the table is absent, ours comes before the view.
    types = {column.name: column.type for column in tables.generations.columns}
    if exists(connection, "generations"):
        types = {c["name"]: c["type"] for c in sa.inspect(connection).get_columns("generations")}
    times = []
    for name in ("updated_at", "created_at"):
        has_zone = getattr(types[name], "timezone", False)
        times.append(f"g.{name}" if has_zone else f"g.{name} AT TIME ZONE 'UTC'")
    return f"coalesce({', '.join(times)})"
