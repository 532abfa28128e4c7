"""The rights of this role to the application's tables, and the statements that grant them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lens_pipeline.catalog.errors import CatalogError, NoRightToWrite
from lens_pipeline.catalog.tables import (
    READ,
    generations,
    master_videos,
    project_assets,
    scaled_videos,
)

PROJECT_TABLES = tuple(table.name for table in (project_assets, master_videos, scaled_videos))
# Assets are not deleted.
_PROJECT_WRITES = (
    *(("INSERT", name) for name in PROJECT_TABLES),
    *(("DELETE", name) for name in PROJECT_TABLES[1:]),
)
_TASK_COLUMNS = ("status", "asset_url", "updated_at")
_INSUFFICIENT_PRIVILEGE = "42501"

_MAY = sa.text(
    "SELECT has_table_privilege(coalesce(CAST(:role AS name), current_user), :table, :action)"
)
# A right to the table counts, too.
_MAY_COLUMNS = sa.text(
    """
    SELECT bool_and(has_column_privilege(
             coalesce(CAST(:role AS name), current_user), :table, c, :action))
      FROM unnest(:columns) c
    """
)
# Row-level security is on, and no policy allows it. With `strict`, those of other roles count only
# if they have no condition: what a site's function lets through is not known.
_IS_KEPT_OUT = sa.text(
    """
    SELECT t.relrowsecurity AND NOT a.rolsuper AND NOT a.rolbypassrls
       AND (t.relforcerowsecurity OR NOT pg_has_role(a.oid, t.relowner, 'USAGE'))
       AND NOT EXISTS (
      SELECT FROM pg_policy p
       WHERE p.polrelid = t.oid AND p.polcmd IN (:command, '*') AND p.polpermissive
         AND EXISTS (SELECT FROM unnest(p.polroles) r
                      WHERE CASE r WHEN 0 THEN true ELSE pg_has_role(a.oid, r, 'MEMBER') END
                        AND (NOT :strict OR r = a.oid
                             OR pg_get_expr(p.polqual, p.polrelid) = 'true')))
      FROM pg_class t, pg_roles a
     WHERE t.oid = to_regclass(:table)
       AND a.rolname = coalesce(CAST(:role AS name), current_user)
    """
)
# The owner of a database owns its schema `public` through a role.
_SCHEMA = sa.text(
    """
    SELECT n.nspname AS name, has_schema_privilege(n.oid, 'CREATE') AS may_create,
           CASE pg_get_userbyid(n.nspowner)
             WHEN 'pg_database_owner' THEN pg_get_userbyid(d.datdba)
             ELSE pg_get_userbyid(n.nspowner) END AS owner
      FROM pg_namespace n, pg_database d
     WHERE n.nspname = current_schema() AND d.datname = current_database()
    """
)
_OWNER = sa.text(
    """
    SELECT pg_get_userbyid(relowner) AS owner, pg_has_role(relowner, 'USAGE') AS is_ours
      FROM pg_class WHERE oid = to_regclass(:name)
    """
)
# As `pg_policy.polcmd` has them.
_COMMANDS = {"SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
# A partial index may leave out rows without a task.
_TASKS_ARE_INDEXED = sa.text(
    """
    SELECT EXISTS (
      SELECT FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
       WHERE i.indrelid = to_regclass('generations') AND a.attname = 'task_id' AND i.indisvalid
         AND (i.indpred IS NULL
              OR pg_get_expr(i.indpred, i.indrelid) = '(task_id IS NOT NULL)'))
    """
)


@dataclass(frozen=True, slots=True)
class Lack:
    message: str
    """With the statements that grant them."""
    is_whole: bool
    """The role has none of these rights, which may be on purpose."""


def exists(connection: sa.Connection, table: str) -> bool:
    return bool(
        connection.scalar(sa.text("SELECT to_regclass(:table) IS NOT NULL"), {"table": table})
    )


def may(
    connection: sa.Connection,
    action: str,
    table: str,
    columns: Iterable[str] = (),
    role: str | None = None,
) -> bool:
    """Whether `role`, or this one, has the right to the table, or to all of `columns`."""
    values = {"action": action, "table": table, "columns": list(columns), "role": role}
    return bool(connection.scalar(_MAY_COLUMNS if values["columns"] else _MAY, values))


def migration_advice(connection: sa.Connection, altered: str | None = None) -> str | None:
    """How to create what is absent, or to change `altered`; None: this role may."""
    schema = connection.execute(_SCHEMA).one_or_none()
    place = f"in schema {schema.name}" if schema else "in any schema of its search_path"
    is_allowed, who = bool(schema and schema.may_create), schema.owner if schema else None
    if altered:
        found = connection.execute(_OWNER, {"name": altered}).one()
        is_allowed, who = is_allowed and found.is_ours, found.owner
    if is_allowed:
        return None
    action = f"alter {altered}" if altered else f"create tables {place}"
    return (
        f"role {current_role(connection)} may not {action}: let {who or 'the owner'} run what"
        " `lens migrate --sql` prints"
    )


def reading_grants(
    connection: sa.Connection, role: str, read: Mapping[str, Sequence[str]]
) -> list[str]:
    """The statements by which `role` may read all of `read`, columns by table."""
    tables = [
        name
        for name, columns in read.items()
        if not exists(connection, name) or not may(connection, "SELECT", name, columns, role)
    ]
    to = quoted(connection, role)
    return [
        *([f"GRANT SELECT ON {', '.join(tables)} TO {to}"] if tables else []),
        *(
            reading_policy(connection, name, role)
            for name in read
            if is_kept_out(connection, "SELECT", name, role, strict=True)
        ),
    ]


def reading_policy(connection: sa.Connection, table: str, role: str) -> str:
    """The statement by which `role` sees every row."""
    name = quoted(connection, f"lens_reads_{role}")
    to = quoted(connection, role)
    return f"CREATE POLICY {name} ON {table} FOR SELECT TO {to} USING (true)"


def owner(connection: sa.Connection, name: str) -> str:
    return connection.execute(_OWNER, {"name": name}).one().owner


def quoted(connection: sa.Connection, role: str) -> str:
    return connection.dialect.identifier_preparer.quote(role)


def check_reading(
    connection: sa.Connection, read: Mapping[str, Sequence[str]], setting_of: Mapping[str, str]
) -> None:
    """Raises CatalogError, with the fix, unless this role may read `read`, columns by table.

    `setting_of`: the setting that names a column of generations.
    """
    role, database = connection.execute(sa.text("SELECT current_user, current_database()")).one()
    for table, needed in read.items():
        if not exists(connection, table):
            advice = migration_advice(connection) or "run `lens migrate`"
            raise CatalogError(f"table {table} does not exist in database {database}: {advice}")
        columns = _columns(connection, table)
        missing = [name for name in needed if name not in columns]
        if missing and missing[0] in setting_of:
            raise CatalogError(
                f"{setting_of[missing[0]]} names {missing[0]}, which is no column of table"
                f" generations in database {database}: name one of {', '.join(sorted(columns))},"
                " or unset it"
            )
        if missing:
            raise CatalogError(
                f"table {table} in database {database} lacks {', '.join(missing)}:"
                " add the column or point LENS_DATABASE_URL at the right database"
            )
        if not may(connection, "SELECT", table, needed):
            raise CatalogError(
                f"role {role} may not SELECT from table {table}:"
                f" run GRANT SELECT ON {', '.join(read)} TO {role}"
            )
        # Hidden rows would be taken for deleted ones, and their files deleted.
        if is_kept_out(connection, "SELECT", table, strict=True):
            raise CatalogError(
                f"row-level security hides rows of {table} from role {role}: run"
                f" {reading_policy(connection, table, role)}"
            )


def check_adding(connection: sa.Connection) -> None:
    """Raises NoRightToWrite unless this role may insert generations."""
    if not may(connection, "INSERT", "generations", READ["generations"]):
        raise no_right(connection, "INSERT", generations, by_policy=False)
    if is_kept_out(connection, "INSERT", "generations"):
        raise no_right(connection, "INSERT", generations, by_policy=True)


def check_tasks(connection: sa.Connection) -> None:
    """Raises CatalogError, with the fix, unless this role may write results of tasks."""
    if "task_id" not in _columns(connection, "generations"):
        raise CatalogError(
            "table generations lacks task_id, by which the provider's tasks are found:"
            " run ALTER TABLE generations ADD COLUMN task_id text UNIQUE"
        )
    rights = (("UPDATE", _TASK_COLUMNS), ("SELECT", ("task_id",)))
    if not all(may(connection, action, "generations", columns) for action, columns in rights):
        raise no_right(connection, "UPDATE", generations, by_policy=False)
    if is_kept_out(connection, "UPDATE", "generations"):
        raise no_right(connection, "UPDATE", generations, by_policy=True)
    if not connection.scalar(_TASKS_ARE_INDEXED):
        raise CatalogError(
            "generations.task_id has no index, so that each webhook reads the whole table (leave"
            " out UNIQUE if a task may have several rows): run CREATE UNIQUE INDEX CONCURRENTLY"
            " generations_task_id ON generations (task_id)"
        )


def check_deletion(connection: sa.Connection) -> None:
    """Raises NoRightToWrite unless this role may delete generations."""
    is_kept = is_kept_out(connection, "DELETE", "generations")
    if is_kept or not may(connection, "DELETE", "generations"):
        raise no_right(connection, "DELETE", generations, by_policy=is_kept)


def lack_of_writing(connection: sa.Connection) -> Lack | None:
    """None: this role may write all of projects."""
    lacking = [
        (action, table)
        for action, table in _PROJECT_WRITES
        if not may(connection, action, table, READ[table] if action == "INSERT" else ())
    ]
    if lacking:
        is_whole = len(lacking) == len(_PROJECT_WRITES)
        return Lack(_grant(current_role(connection), lacking), is_whole)
    kept_out = {
        table: None for action, table in _PROJECT_WRITES if is_kept_out(connection, action, table)
    }
    if kept_out:
        return Lack(_policy(current_role(connection), "writing", list(kept_out)), is_whole=False)
    return None


@contextmanager
def refusal_explained(connection: sa.Connection, action: str, table: sa.Table) -> Iterator[None]:
    """Roll back and raise NoRightToWrite if the server refuses it."""
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        connection.rollback()
        by_policy = "row-level security" in str(error.orig)
        raise no_right(connection, action, table, by_policy=by_policy) from error


def no_right(
    connection: sa.Connection, action: str, table: sa.Table, *, by_policy: bool
) -> NoRightToWrite:
    """`by_policy`: row-level security forbids it, not a missing GRANT."""
    role = current_role(connection)
    if action == "INSERT" and table is generations:
        return NoRightToWrite(_ADD_POLICY.format(role) if by_policy else _ADD_GRANT.format(role))
    if table is generations and action == "UPDATE":
        return NoRightToWrite(_TASK_POLICY.format(role) if by_policy else _TASK_GRANT.format(role))
    if table is generations and not by_policy:
        return NoRightToWrite(_DELETION_GRANT.format(role))
    if by_policy:
        return NoRightToWrite(_policy(role, action, [table.name]))
    if action == "UPDATE":
        return NoRightToWrite(_RENAME_GRANT.format(role))
    return NoRightToWrite(_grant(role, [(action, table.name)]))


_TASK_GRANT = (
    "role {0} may not write what the provider says into generations: run"
    f" GRANT SELECT (task_id), UPDATE ({', '.join(_TASK_COLUMNS)}) ON generations TO {{0}}"
)
_DELETION_GRANT = "role {0} may not delete generations: run GRANT DELETE ON generations TO {0}"
_TASK_POLICY = (
    "row-level security keeps role {0} from writing generations: run"
    " CREATE POLICY lens_writes ON generations FOR UPDATE TO {0} USING (true)"
)


_ADD_GRANT = "role {0} may not add generations: run GRANT INSERT ON generations TO {0}"
_ADD_POLICY = (
    "row-level security keeps role {0} from adding generations: run"
    " CREATE POLICY lens_adds ON generations FOR INSERT TO {0} WITH CHECK (true)"
)
_RENAME_GRANT = "role {0} may not rename masters: run GRANT UPDATE (name) ON master_videos TO {0}"


def _grant(role: str, lacking: Iterable[tuple[str, str]]) -> str:
    said = ", ".join(f"{action} on {table}" for action, table in lacking)
    tables = ", ".join(PROJECT_TABLES)
    return f"role {role} may not {said}: run GRANT INSERT, DELETE ON {tables} TO {role}"


def _policy(role: str, action: str, tables: Sequence[str]) -> str:
    statements = "; ".join(
        f"CREATE POLICY lens_writes ON {name} TO {role} USING (true) WITH CHECK (true)"
        for name in tables
    )
    return (
        f"row-level security keeps role {role} from {action} on {', '.join(tables)}:"
        f" run {statements}"
    )


def current_role(connection: sa.Connection) -> str:
    return connection.execute(sa.text("SELECT current_user")).scalar_one()


def _columns(connection: sa.Connection, table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(connection).get_columns(table)}


def is_kept_out(
    connection: sa.Connection,
    action: str,
    table: str,
    role: str | None = None,
    *,
    strict: bool = False,
) -> bool:
    """Whether row-level security hides all rows of `table` from `role`, or from this one.

    `strict`: also where only conditions of the site may let it see some.
    """
    values = {"table": table, "command": _COMMANDS[action], "role": role, "strict": strict}
    return bool(connection.scalar(_IS_KEPT_OUT, values))
