"""The rights to write rows of projects, which only those need who have that done over HTTP."""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from lens_pipeline.catalog.errors import NoRightToWrite
from lens_pipeline.catalog.tables import READ, master_videos, project_assets, scaled_videos

_TABLES = tuple(table.name for table in (project_assets, master_videos, scaled_videos))
_NEEDED = tuple(
    (action, table.name)
    for action, tables in (
        ("INSERT", (project_assets, master_videos, scaled_videos)),
        ("DELETE", (master_videos, scaled_videos)),
    )
    for table in tables
)
# Who may insert needs all columns, by a right to the table or to each of them.
_MAY = {
    "INSERT": sa.text(
        "SELECT bool_and(has_column_privilege(:name, c, 'INSERT')) FROM unnest(:columns) c"
    ),
    "DELETE": sa.text("SELECT has_table_privilege(:name, 'DELETE')"),
}
# Row-level security is in force for this role, and no policy lets it do that.
_IS_KEPT_OUT = sa.text(
    """
    SELECT row_security_active(:name) AND NOT EXISTS (
      SELECT FROM pg_policy p
       WHERE p.polrelid = to_regclass(:name) AND p.polcmd IN (:command, '*')
         AND p.polpermissive
         AND EXISTS (SELECT FROM unnest(p.polroles) r
                      WHERE r = 0 OR pg_has_role(current_user, r, 'MEMBER')))
    """
)
_COMMANDS = {"INSERT": "a", "DELETE": "d"}


@dataclass(frozen=True, slots=True)
class Lack:
    """Rights that this role does not have."""

    message: str
    """What is lacking, and the statements that mend it."""
    is_whole: bool
    """It has none of these rights: perhaps as somebody wants it."""


def lack_of_writing(connection: sa.Connection) -> Lack | None:
    """What this role may not write of projects; None: it may write all."""
    role = _role(connection)
    lacking = [(action, table) for action, table in _NEEDED if not _may(connection, action, table)]
    if lacking:
        return Lack(_grant(role, lacking), is_whole=len(lacking) == len(_NEEDED))
    kept_out = {
        table: None
        for action, table in _NEEDED
        if connection.scalar(_IS_KEPT_OUT, {"name": table, "command": _COMMANDS[action]})
    }
    return Lack(_policy(role, "writing", kept_out), is_whole=False) if kept_out else None


def no_right(
    connection: sa.Connection, action: str, table: sa.Table, *, by_policy: bool
) -> NoRightToWrite:
    """Why the server has refused that, `by_policy` of row-level security or for lack of a GRANT."""
    role = _role(connection)
    if by_policy:
        return NoRightToWrite(_policy(role, action, [table.name]))
    return NoRightToWrite(_grant(role, [(action, table.name)]))


def _may(connection: sa.Connection, action: str, table: str) -> bool:
    return bool(connection.scalar(_MAY[action], {"name": table, "columns": list(READ[table])}))


def _role(connection: sa.Connection) -> str:
    return connection.execute(sa.text("SELECT current_user")).scalar_one()


def _grant(role: str, lacking: Iterable[tuple[str, str]]) -> str:
    said = ", ".join(f"{action} on {table}" for action, table in lacking)
    return f"role {role} may not {said}: run GRANT INSERT, DELETE ON {', '.join(_TABLES)} TO {role}"


def _policy(role: str, action: str, tables: Iterable[str]) -> str:
    names = list(tables)
    statements = "; ".join(
        f"CREATE POLICY lens_writes ON {name} TO {role} USING (true) WITH CHECK (true)"
        for name in names
    )
    return (
        f"row-level security keeps role {role} from {action} on {', '.join(names)}:"
        f" run {statements}"
    )
