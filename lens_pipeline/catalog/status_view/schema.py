"""The views, the tables behind them, and the rights to both."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from lens_pipeline.catalog.generations import Layout
from lens_pipeline.catalog.permissions import (
    PROJECT_TABLES,
    Lack,
    current_role,
    exists,
    is_kept_out,
    may,
    migration_advice,
    owner,
    quoted,
    reading_policy,
)
from lens_pipeline.catalog.rows import FINISHED, Kind
from lens_pipeline.catalog.tables import READ, TIME, generations, master_videos

# Of all tables and views, in the comment of `lens_generations`: raise it whenever one changes.
VERSION = 4
_ACTIONS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# PostgreSQL 15 checks the rights of a view's reader; before, those of its owner count.
_INVOKER_SINCE = 15
# As `has_table_privilege` knows all roles together.
_PUBLIC = "public"

MASTER_ASSET = "master_video"
# The status of a master in the words of pages that knew the old columns.
LegacyStatus = Literal["created", "processing", "completed", "failed"]
MASTER_WORDS: Mapping[str, LegacyStatus] = {
    "none": "created",
    "processing": "processing",
    "ready": "completed",
    "failed": "failed",
    "dead": "failed",
}


def _table(name: str, *more: sa.Column) -> sa.Table:
    """Rows without an asset are marks, see `rows.mark`."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("asset", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("changed_at", TIME, nullable=False),
        *more,
    )


# `fingerprint`: of the row that has this status, see `generations.fingerprint`; from version 3 on.
derivatives = _table("lens_derivatives", sa.Column("fingerprint", sa.Text))
# `progress`: in percent; NULL: not known.
master_derivatives = _table("lens_master_derivatives", sa.Column("progress", sa.Integer))

_KEPT = """
    CASE WHEN EXISTS (SELECT FROM {table} m
                       WHERE m.asset = '' AND m.id = 'kept' AND m.changed_at > now())
    THEN 'none' END
"""
# Replacing keeps the grants; it can add columns only at the end. An unfinished row has no
# derivative, whatever it had before. `unnest` keeps the planner from merging `k` into the joins:
# there a cast of an id would come after the policy, which then is tried on the whole table.
_OF_GENERATIONS = """
    SELECT g.id, g.user_id, g.type, g.status,
           CASE s.status WHEN 'dead' THEN 'failed' ELSE s.status END AS preview_status,
           CASE d.asset WHEN 'preview' THEN d.path END AS preview_path,
           CASE d.asset WHEN 'poster' THEN d.path END AS poster_path,
           d.error,
           greatest(coalesce({updated_at}, {created_at}), d.changed_at) AS updated_at,
           o.path AS original_path,
           s.status = 'dead' AS is_dead
      FROM generations g
     CROSS JOIN LATERAL unnest(
           ARRAY[CAST(g.id AS text)], ARRAY[CAST(g.status AS text) IN ({finished})],
           ARRAY[CASE CAST(g.type AS text) {assets} END],
           ARRAY[CASE CAST(g.type AS text) {originals} END]) k(key, is_finished, asset, original)
      LEFT JOIN lens_derivatives d ON d.asset = k.asset AND d.id = k.key AND k.is_finished
      LEFT JOIN lens_derivatives o ON o.asset = k.original AND o.id = k.key AND k.is_finished
     CROSS JOIN LATERAL (SELECT coalesce(d.status, {kept})) AS s(status)
"""
_OF_MASTERS = """
    SELECT g.master_id, g.project_id, g.name,
           CASE s.status {words} END AS status,
           d.path AS video_path,
           CASE d.status WHEN 'processing' THEN d.progress WHEN 'ready' THEN 100 END AS progress,
           d.error,
           s.status = 'dead' AS is_dead,
           {created_at} AS created_at,
           greatest(coalesce({updated_at}, {created_at}), d.changed_at) AS updated_at,
           CASE d.status WHEN 'ready' THEN d.changed_at END AS completed_at
      FROM master_videos g
     CROSS JOIN LATERAL unnest(ARRAY[CAST(g.master_id AS text)]) k(key)
      LEFT JOIN lens_master_derivatives d ON d.asset = '{asset}' AND d.id = k.key
     CROSS JOIN LATERAL (SELECT coalesce(d.status, {kept})) AS s(status)
"""


@dataclass(frozen=True, eq=False)
class Projection:
    """A view over a table of the application and the copy of its rows' statuses."""

    view: str
    source: sa.Table
    table: sa.Table
    query: str
    read: tuple[str, ...]
    """The columns of `source` that the view reads; the first is its key."""


GENERATIONS = Projection(
    "lens_generations",
    generations,
    derivatives,
    _OF_GENERATIONS,
    ("id", "user_id", "type", "status", "created_at", "updated_at"),
)
MASTERS = Projection(
    "lens_master_videos",
    master_videos,
    master_derivatives,
    _OF_MASTERS,
    ("master_id", "project_id", "name", "created_at", "updated_at"),
)
PROJECTIONS = (GENERATIONS, MASTERS)

_NEW_COLUMN = "ALTER TABLE lens_derivatives ADD COLUMN IF NOT EXISTS fingerprint text"
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
# The key is cast, not the column, whose index is to be used. Marks have no key.
_READS = """
    CREATE POLICY lens_reads ON {table} FOR SELECT USING (
      CASE WHEN asset = '' THEN true ELSE EXISTS (
        SELECT FROM {source} s WHERE s.{key} = CAST({table}.id AS {type})) END)
"""
# Without names of roles, which a server that a backup is restored on need not have. Not for roles
# that cannot log in: hosts may have granted their users everything by such ones.
_WRITES = """
    CREATE POLICY lens_writes ON {table} USING ((
      SELECT rolcanlogin AND has_table_privilege(CAST('{table}' AS regclass), 'INSERT')
        FROM pg_roles WHERE rolname = current_user))
"""
_VERSION = re.compile(r"version (\d+)(?: of (\S+))?$")
_COMMENT = sa.text("SELECT obj_description(to_regclass('lens_generations'), 'pg_class')")
_IS_INVOKER = sa.text(
    """
    SELECT 'security_invoker=true' = ANY(reloptions) FROM pg_class
     WHERE oid = to_regclass('lens_generations')
    """
)
_COLUMNS = sa.text(
    """
    SELECT name, attname FROM unnest(:tables) name
      JOIN pg_attribute ON attrelid = to_regclass(name)
    """
)
_COLUMN_TYPE = sa.text(
    """
    SELECT format_type(atttypid, NULL) FROM pg_attribute
     WHERE attrelid = to_regclass(:table) AND attname = :column
    """
)
_GRANTEES = sa.text(
    """
    SELECT DISTINCT coalesce(r.rolname, 'public') AS name, r.rolcanlogin AS logs_in
      FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE c.oid = to_regclass(:name) AND a.privilege_type = :action AND a.grantee <> c.relowner
     ORDER BY 1
    """
)


def version(connection: sa.Connection) -> int | None:
    """None: there is no view."""
    return _version(connection)[0] if exists(connection, GENERATIONS.view) else None


def _version(connection: sa.Connection) -> tuple[int, str]:
    """The version of the views, and the types of which they are, as in LENS_TYPES."""
    found = _VERSION.search(connection.scalar(_COMMENT) or "")
    return (int(found[1]), found[2] or Layout().types_text) if found else (1, "")


def present(connection: sa.Connection) -> list[Projection]:
    """Those that are there."""
    return [one for one in _possible(connection) if exists(connection, one.table.name)]


def migration(
    connection: sa.Connection,
    layout: Layout,
    made: Collection[str] = (),
    writer: str | None = None,
) -> list[str]:
    """The statements that make or update tables and views.

    `made`: tables of the application that are made before; `writer`: a role that may write then.
    """
    if not _is_due(connection, layout, made):
        return []
    return [
        line
        for one in _possible(connection, made)
        for line in _statements(connection, layout, one, writer)
    ]


def _possible(connection: sa.Connection, made: Collection[str] = ()) -> list[Projection]:
    """A host may have no masters, or tables of these names of its own."""
    found = {tuple(row) for row in connection.execute(_COLUMNS, {"tables": [*PROJECT_TABLES]})}
    others = {*PROJECT_TABLES}.difference(made)
    is_whole = all((name, column) in found for name in others for column in READ[name])
    return [*PROJECTIONS] if is_whole else [GENERATIONS]


def _is_due(connection: sa.Connection, layout: Layout, made: Collection[str] = ()) -> bool:
    found, types = _version(connection) if exists(connection, GENERATIONS.view) else (0, "")
    if found != VERSION:
        return found < VERSION
    if types != layout.types_text:
        return True
    views = [one.view for one in _possible(connection, made)]
    return _is_of_older_server(connection) or not all(exists(connection, name) for name in views)


def _is_of_older_server(connection: sa.Connection) -> bool:
    return _checks_readers(connection) and not connection.scalar(_IS_INVOKER)


def _statements(
    connection: sa.Connection, layout: Layout, one: Projection, writer: str | None
) -> list[str]:
    table, view = one.table.name, one.view
    absent = [name for name in (table, view) if not exists(connection, name)]
    creation = str(CreateTable(one.table).compile(dialect=connection.dialect))
    with_rights = "WITH (security_invoker = true) " if _checks_readers(connection) else ""
    key_type = _type_of(connection, one, one.read[0])
    reads = _READS.format(table=table, source=one.source.name, key=one.read[0], type=key_type)
    of_types = "" if layout.types == Layout().types else f" of {layout.types_text}"
    # A page locks the view first: the other order would be a deadlock.
    return [
        *([creation] if table in absent else []),
        f"CREATE OR REPLACE VIEW {view} {with_rights}AS {_query(connection, layout, one)}",
        f"COMMENT ON VIEW {view} IS 'Lens Pipeline, version {VERSION}{of_types}'",
        *([_NEW_COLUMN] if one is GENERATIONS else []),
        *(_CLOSURE.format(name=name) for name in absent),
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        *(f"DROP POLICY IF EXISTS {name} ON {table}" for name in ("lens_reads", "lens_writes")),
        reads,
        _WRITES.format(table=table),
        *_writing_grants(connection, one, writer),
        *_reading_grants(connection, one),
    ]


def _query(connection: sa.Connection, layout: Layout, one: Projection) -> str:
    return one.query.format(
        assets=_by_type(layout, {Kind.PHOTO: "preview", Kind.VIDEO: "poster"}),
        originals=_by_type(
            layout, {Kind.PHOTO: "photo_generation", Kind.VIDEO: "video_generation"}
        ),
        created_at=_time(connection, one, "created_at"),
        updated_at=_time(connection, one, "updated_at"),
        finished=", ".join(f"'{status}'" for status in FINISHED),
        words=" ".join(f"WHEN '{state}' THEN '{word}'" for state, word in MASTER_WORDS.items()),
        asset=MASTER_ASSET,
        kept=_KEPT.format(table=one.table.name),
    )


def _by_type(layout: Layout, assets: Mapping[Kind, str]) -> str:
    return " ".join(
        f"WHEN '{one}' THEN '{asset}'"
        for kind, asset in assets.items()
        for one in layout.types_of(kind)
    )


def _time(connection: sa.Connection, one: Projection, column: str) -> str:
    """SQL for a time with its zone: without one it is in UTC, whatever the session's zone."""
    is_naive = _type_of(connection, one, column) == "timestamp without time zone"
    return f"g.{column} AT TIME ZONE 'UTC'" if is_naive else f"g.{column}"


def _type_of(connection: sa.Connection, one: Projection, column: str) -> str:
    found = connection.scalar(_COLUMN_TYPE, {"table": one.source.name, "column": column})
    # Where the table is absent, ours comes before the view.
    return found or str(one.source.c[column].type.compile(connection.dialect))


def _writing_grants(connection: sa.Connection, one: Projection, writer: str | None) -> list[str]:
    """For `writer`, and for the roles that wrote the older tables."""
    granted = _grantees(connection, GENERATIONS.table.name, "INSERT")
    roles = {row.name for row in granted if row.logs_in} | ({writer} if writer else set())
    return [_grant(connection, one, role) for role in sorted(roles)]


def _grant(connection: sa.Connection, one: Projection, role: str) -> str:
    return f"GRANT {', '.join(_ACTIONS)} ON {one.table.name} TO {quoted(connection, role)}"


def _reading_grants(connection: sa.Connection, one: Projection) -> list[str]:
    """Roles that may read the application's table may read what is behind the view.

    So may those of the view as it was, which read by the rights of its owner until now. Where
    PostgreSQL does not check the rights of readers, nothing is granted.
    """
    if not _checks_readers(connection):
        return []
    pages = [row.name for row in _grantees(connection, one.view, "SELECT")]
    readers = {row.name for row in _grantees(connection, one.source.name, "SELECT")}
    statements = [
        f"GRANT SELECT ON {one.table.name}, {one.view} TO {_named(connection, role)}"
        for role in sorted({*pages, *readers})
    ]
    source, columns = one.source.name, ", ".join(one.read)
    return statements + [
        f"GRANT SELECT ({columns}) ON {source} TO {_named(connection, role)}"
        for role in pages
        if not may(connection, "SELECT", source, one.read, role)
    ]


def _grantees(connection: sa.Connection, name: str, action: str) -> list[sa.Row]:
    """The roles with that right, by name, but the owner; all together are `public`."""
    return list(connection.execute(_GRANTEES, {"name": name, "action": action}))


def _named(connection: sa.Connection, role: str) -> str:
    return "PUBLIC" if role == _PUBLIC else quoted(connection, role)


def _checks_readers(connection: sa.Connection) -> bool:
    found = connection.dialect.server_version_info
    return found is not None and found[0] >= _INVOKER_SINCE


def grants(connection: sa.Connection, role: str) -> list[str]:
    """The statements by which `role` may keep the views true."""
    return [
        _grant(connection, one, role)
        for one in present(connection)
        if not all(may(connection, action, one.table.name, role=role) for action in _ACTIONS)
    ]


def lack(connection: sa.Connection) -> Lack | None:
    """Why this role does not keep the views; None: it may."""
    if version(connection) is None:
        advice = migration_advice(connection) or "run `lens migrate`"
        view = f"{GENERATIONS.view}, for pages that read SQL, does not exist"
        return Lack(f"{view}: {advice}", is_whole=True)
    role = current_role(connection)
    statements = grants(connection, role)
    if statements:
        names = ", ".join(one.table.name for one in present(connection))
        problem = f"{GENERATIONS.view} is not kept true, as role {role} may not write {names}"
        first = owner(connection, GENERATIONS.table.name)
        return Lack(f"{problem}: let {first} run {'; '.join(statements)}", is_whole=False)
    return None


def advice(connection: sa.Connection) -> str | None:
    """How to run what `migration` says, if this role may not; None: it may."""
    if not exists(connection, GENERATIONS.view):
        return migration_advice(connection)
    of_pages = _reading_grants(connection, GENERATIONS)
    needs_source = any(f" ON {GENERATIONS.source.name} " in line for line in of_pages)
    altered = [GENERATIONS.view, *([GENERATIONS.source.name] if needs_source else [])]
    found = (migration_advice(connection, name) for name in altered)
    return next((one for one in found if one), None)


def is_older(connection: sa.Connection) -> bool:
    """Whether the copy lacks what this version keeps."""
    return (version(connection) or 0) < VERSION


def age_note(connection: sa.Connection, layout: Layout) -> str | None:
    """What to do about older views; None: they are of this version, a later one, or absent."""
    if not exists(connection, GENERATIONS.view) or not _is_due(connection, layout):
        return None
    found, types = _version(connection)
    problem = f"{GENERATIONS.view} is of version {found}, and this program knows {VERSION}"
    if found == VERSION and types != layout.types_text:
        problem = f"{GENERATIONS.view} is of other types than LENS_TYPES={layout.types_text}"
    elif found == VERSION and _is_of_older_server(connection):
        problem = f"{GENERATIONS.view} is of an older PostgreSQL"
    elif found == VERSION:
        problem = f"{MASTERS.view} does not exist"
    return "; ".join(
        [f"{problem}: {advice(connection) or 'run `lens migrate`'}", *hidden_rows(connection)]
    )


def hidden_rows(connection: sa.Connection) -> list[str]:
    """Of which roles an update takes rows away: until now its owner's rights opened the view."""
    if not exists(connection, GENERATIONS.view) or not _is_of_older_server(connection):
        return []
    name = generations.name
    return [
        f"{GENERATIONS.view} of version {VERSION} hides from role {role} what row-level security of"
        f" {name} does: to show all rows, run {reading_policy(connection, name, role)}"
        for role, _ in _grantees(connection, GENERATIONS.view, "SELECT")
        if is_kept_out(connection, "SELECT", name, role, strict=True)
    ]
