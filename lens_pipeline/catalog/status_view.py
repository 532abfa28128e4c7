"""`lens_generations`: generations with what became of them, for pages that read SQL.

Dagster's tables lie in another database and change with its versions, so what became of each
generation is copied into `lens_derivatives`: a projection that can be made anew at any time, and
that the pipeline itself never reads to decide anything.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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

# Times without a zone are in UTC, whoever's session reads them.
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
# Defaults of the host, such as those of Supabase, might open them to everybody.
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
        WHERE CAST(g.id AS text) = d.id AND g.status = ANY(:finished)
          AND d.asset = CASE g.type WHEN 'photo' THEN 'preview' WHEN 'video' THEN 'poster' END)
    """
)


@dataclass(frozen=True, slots=True)
class Projected:
    """Where the derivative of one generation stands, as it is shown."""

    id: str
    status: str
    path: str | None
    error: str | None
    changed_at: dt.datetime

    def shows_as(self, other: "Projected | None") -> bool:
        """Whether a reader sees the same; the time of what stays is that of its first sight."""
        return other is not None and (self.status, self.path, self.error) == (
            other.status,
            other.path,
            other.error,
        )


def create(connection: sa.Connection) -> list[str]:
    """Create the table and the view where absent, readable by their owner alone; their names.

    Raises DBAPIError: the role may not, or there is no table `generations`.
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
    """Whether the view is there and this role may keep it true."""
    return all(exists(connection, name) for name in (VIEW, TABLE)) and all(
        may(connection, action, TABLE) for action in ("SELECT", "INSERT", "UPDATE", "DELETE")
    )


def read(connection: sa.Connection, asset: str, ids: Sequence[str]) -> dict[str, Projected]:
    """What is shown of these generations, by id."""
    table = derivatives.c
    wanted = sa.cast(list(ids), postgresql.ARRAY(sa.Text()))
    query = sa.select(table.id, table.status, table.path, table.error, table.changed_at).where(
        table.asset == asset, table.id == sa.any_(wanted)
    )
    return {row.id: Projected(*row) for row in connection.execute(query)}


def write(connection: sa.Connection, asset: str, rows: Iterable[Projected]) -> None:
    """Show these instead of what was shown of them."""
    values = [
        {
            "asset": asset,
            "id": row.id,
            "status": row.status,
            "path": row.path,
            "error": row.error,
            "changed_at": row.changed_at,
        }
        for row in rows
    ]
    if not values:
        return
    statement = postgresql.insert(derivatives).values(values)
    new: Mapping[str, sa.ColumnElement] = {
        name: statement.excluded[name] for name in ("status", "path", "error", "changed_at")
    }
    connection.execute(statement.on_conflict_do_update(index_elements=["asset", "id"], set_=new))


def delete(connection: sa.Connection, asset: str, ids: Sequence[str]) -> None:
    """Show nothing of these any more."""
    wanted = sa.cast(list(ids), postgresql.ARRAY(sa.Text()))
    statement = sa.delete(derivatives).where(
        derivatives.c.asset == asset, derivatives.c.id == sa.any_(wanted)
    )
    connection.execute(statement)


def delete_orphans(connection: sa.Connection, finished: Sequence[str]) -> int:
    """Delete what is shown of generations that are gone, or are not finished any more."""
    return connection.execute(_DELETE_ORPHANS, {"finished": list(finished)}).rowcount


def _row_time(connection: sa.Connection) -> str:
    """SQL for when a row last changed, with its time zone."""
    types = {c["name"]: c["type"] for c in sa.inspect(connection).get_columns("generations")}
    times = []
    for name in ("updated_at", "created_at"):
        has_zone = getattr(types[name], "timezone", False)
        times.append(f"g.{name}" if has_zone else f"g.{name} AT TIME ZONE 'UTC'")
    return f"coalesce({', '.join(times)})"
