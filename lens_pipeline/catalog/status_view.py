"""`lens_generations`: generations with the status of their preview or poster, for SQL readers.

Dagster's tables lie in another database: statuses are copied to `lens_derivatives`, which decides
nothing and can be made anew.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lens_pipeline.catalog.permissions import exists, may
from lens_pipeline.catalog.tables import TIME

VIEW = "lens_generations"
TABLE = "lens_derivatives"

derivatives = sa.Table(
    TABLE,
    sa.MetaData(),
    sa.Column("asset", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("path", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("changed_at", TIME, nullable=False),
)
# `changed_at` changes only with these.
_SHOWN = ("status", "path", "error")

# Times without a zone are in UTC, whatever the session's zone.
_VIEW = """
    CREATE VIEW lens_generations AS
    SELECT g.id, g.user_id, g.type, g.status,
           coalesce(d.status, 'none') AS preview_status,
           CASE d.asset WHEN 'preview' THEN d.path END AS preview_path,
           CASE d.asset WHEN 'poster' THEN d.path END AS poster_path,
           d.error,
           greatest({row_time}, d.changed_at) AS updated_at
      FROM generations g
      LEFT JOIN lens_derivatives d
        ON d.id = CAST(g.id AS text)
       AND d.asset = CASE g.type WHEN 'photo' THEN 'preview' WHEN 'video' THEN 'poster' END
"""
# Defaults of a host such as Supabase may open them to all.
_GRANTEES = sa.text(
    """
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END
      FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
      LEFT JOIN pg_roles r ON r.oid = a.grantee
     WHERE c.oid = to_regclass(:name) AND a.grantee <> c.relowner
    """
)
_DELETE_ORPHANS = sa.text(
    """
    DELETE FROM lens_derivatives d
     WHERE NOT EXISTS (
       SELECT FROM generations g
        JOIN unnest(CAST(:assets AS text[]), CAST(:kinds AS text[])) AS k(asset, kind)
          ON k.kind = g.type
        WHERE CAST(g.id AS text) = d.id AND g.status = ANY(:finished) AND d.asset = k.asset)
    """
)


def create(connection: sa.Connection) -> list[str]:
    """Create table and view where absent, for their owner alone; returns their names.

    Raises DBAPIError: no right, or no table `generations`.
    """
    created = [name for name in (TABLE, VIEW) if not exists(connection, name)]
    if TABLE in created:
        derivatives.create(connection)
    if VIEW in created:
        connection.execute(sa.text(_VIEW.format(row_time=_row_time(connection))))
    for name in created:
        for grantee in connection.execute(_GRANTEES, {"name": name}).scalars().all():
            connection.execute(sa.text(f"REVOKE ALL ON {name} FROM {grantee}"))
    return created


def may_write(connection: sa.Connection) -> bool:
    return all(exists(connection, name) for name in (VIEW, TABLE)) and all(
        may(connection, action, TABLE) for action in ("SELECT", "INSERT", "UPDATE", "DELETE")
    )


def write(
    connection: sa.Connection,
    asset: str,
    rows: Mapping[str, Mapping[str, object]],
    gone: Sequence[str],
) -> int:
    """Show `rows` (columns by name, by id), and none of `gone`. Returns the number of changes."""
    shown = _read(connection, asset, [*rows, *gone])
    values = [
        {"asset": asset, "id": key, **columns}
        for key, columns in rows.items()
        if shown.get(key) != tuple(columns[name] for name in _SHOWN)
    ]
    if values:
        statement = postgresql.insert(derivatives).values(values)
        new: Mapping[str, sa.ColumnElement] = {
            name: statement.excluded[name] for name in (*_SHOWN, "changed_at")
        }
        connection.execute(
            statement.on_conflict_do_update(index_elements=["asset", "id"], set_=new)
        )
    dropped = [key for key in gone if key in shown]
    if dropped:
        connection.execute(sa.delete(derivatives).where(*_are(asset, dropped)))
    return len(values) + len(dropped)


def _read(
    connection: sa.Connection, asset: str, ids: Sequence[str]
) -> dict[str, tuple[str | None, ...]]:
    table = derivatives.c
    query = sa.select(table.id, *(table[name] for name in _SHOWN)).where(*_are(asset, ids))
    return {row[0]: tuple(row[1:]) for row in connection.execute(query)}


def _are(asset: str, ids: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    wanted = sa.cast(list(ids), postgresql.ARRAY(sa.Text()))
    return derivatives.c.asset == asset, derivatives.c.id == sa.any_(wanted)


def delete_orphans(
    connection: sa.Connection, finished: Sequence[str], kinds: Mapping[str, str]
) -> int:
    """Delete what is not of a finished generation; returns the number.

    `kinds`: the `type` of the generations of each asset.
    """
    values = {"finished": list(finished), "assets": [*kinds], "kinds": [*kinds.values()]}
    return connection.execute(_DELETE_ORPHANS, values).rowcount


def _row_time(connection: sa.Connection) -> str:
    """SQL for when a row last changed."""
    types = {c["name"]: c["type"] for c in sa.inspect(connection).get_columns("generations")}
    times = []
    for name in ("updated_at", "created_at"):
        has_zone = getattr(types[name], "timezone", False)
        times.append(f"g.{name}" if has_zone else f"g.{name} AT TIME ZONE 'UTC'")
    return f"coalesce({', '.join(times)})"
