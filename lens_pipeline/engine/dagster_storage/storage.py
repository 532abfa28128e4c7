"""Dagster's PostgreSQL storage over one connection pool, and its tables.

The stock storage opens a connection for every event: 18-34 ms against 5-6 ms pooled.
"""

import datetime as dt
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from dagster import AssetKey, DagsterEvent
from dagster._core.scheduler.instigation import InstigatorType, TickStatus
from dagster._core.storage.defs_state.base import DEFS_STATE_INFO_CURSOR_KEY
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresRunStorage, PostgresScheduleStorage
from sqlalchemy.exc import DBAPIError

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.derivatives.registry import REPORT_ASSET, REPORT_DAYS, backfill_schedules
from lens_pipeline.engine import commands
from lens_pipeline.engine.dagster_storage.event_log_storage import LensEventLogStorage
from lens_pipeline.engine.dagster_storage.pool import PooledStorage, shared_pool
from lens_pipeline.engine.dagster_storage.schema_cache import Schema, schema_of
from lens_pipeline.engine.processes.notify import NOTIFY, QUEUE_EVENTS
from lens_pipeline.errors import first_line
from lens_pipeline.event_log.tables import has_tables, open_connection

logger = logging.getLogger(__name__)

_PURGE_SECONDS = 60.0

_HAS_DATABASE = sa.text("SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name)")
_MAY_CREATE = sa.text("SELECT has_schema_privilege(:role, 'public', 'CREATE')")
_MAY_WRITE = sa.text(
    """
    SELECT bool_and(has_table_privilege(:role, oid, action))
      FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS action
     WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    """
)
_GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
    "GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA public TO {}",
)


class PooledPostgresStorage(DagsterPostgresStorage):
    """Only `create_tables` makes tables: a look for them costs three connections at every start."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False, inst_data=inst_data)
        engine = shared_pool(postgres_url)
        schema = schema_of(postgres_url)
        self._run_storage = LensRunStorage(postgres_url, engine, schema)
        self._schedule_storage = LensScheduleStorage(postgres_url, engine, schema)
        self._event_log_storage = LensEventLogStorage(postgres_url, engine, schema)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: object
    ) -> "PooledPostgresStorage":
        return cls(commands.storage_url(), inst_data)


class LensRunStorage(PooledStorage, PostgresRunStorage):
    def __init__(self, postgres_url: str, engine: sa.Engine, schema: Schema) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._engine = engine
        self._schema = schema

    def handle_run_event(
        self, run_id: str, event: DagsterEvent, update_timestamp: dt.datetime | None = None
    ) -> None:
        """Also notify the daemon of the run queue."""
        super().handle_run_event(run_id, event, update_timestamp)
        if event.event_type in QUEUE_EVENTS:
            try:
                with self.connect() as connection:
                    connection.execute(NOTIFY)
            except DBAPIError as error:
                # The event is written, and the daemon also polls.
                logger.warning("cannot tell the daemon of run %s: %s", run_id, first_line(error))

    def get_cursor_values(self, keys: set[str]) -> Mapping[str, str]:
        """There are no stored definitions, so loading those of the code takes no database."""
        return {} if keys == {DEFS_STATE_INFO_CURSOR_KEY} else super().get_cursor_values(keys)

    def has_run_stats_index_cols(self) -> bool:
        return self._schema.has("run stats", super().has_run_stats_index_cols)

    def has_backfill_id_column(self) -> bool:
        return self._schema.has("run backfill", super().has_backfill_id_column)


class LensScheduleStorage(PooledStorage, PostgresScheduleStorage):
    def __init__(self, postgres_url: str, engine: sa.Engine, schema: Schema) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._engine = engine
        self._schema = schema
        self._purged_at: dict[tuple[str, frozenset[TickStatus]], float] = {}

    def purge_ticks(
        self,
        origin_id: str,
        selector_id: str,
        before: float,
        tick_statuses: Sequence[TickStatus] | None = None,
    ) -> None:
        """Purge once a minute: Dagster asks for it three times after every tick."""
        what = (origin_id, frozenset(tick_statuses or ()))
        now = time.monotonic()
        if now - self._purged_at.get(what, -_PURGE_SECONDS) >= _PURGE_SECONDS:
            super().purge_ticks(origin_id, selector_id, before, tick_statuses)
            self._purged_at[what] = now

    def _has_instigators_table(self, conn: sa.Connection) -> bool:
        ask = super()._has_instigators_table
        return self._schema.has("table instigators", lambda: ask(conn))

    def has_secondary_index_table(self) -> bool:
        return self._schema.has("table secondary_indexes", super().has_secondary_index_table)

    def has_built_index(self, migration_name: str) -> bool:
        ask = super().has_built_index
        return self._schema.has(f"schedule index {migration_name}", lambda: ask(migration_name))


def create_database(database_url: str, dagster_url: str) -> bool:
    """Create Dagster's database if absent and on the server of `database_url`; returns whether.

    Raises sqlalchemy.exc.DBAPIError: the role may not create it.
    """
    statement = _creation(database_url, dagster_url)
    if statement:
        with open_connection(database_url) as connection:
            connection.execute(sa.text(statement))
    return bool(statement)


def _creation(database_url: str, dagster_url: str) -> str | None:
    """The statement that creates Dagster's database; None: it exists or is on another server."""
    wanted = sa.make_url(dagster_url)
    application = sa.make_url(database_url)
    if (wanted.host, wanted.port) != (application.host, application.port):
        return None
    with open_connection(database_url) as connection:
        if connection.scalar(_HAS_DATABASE, {"name": wanted.database}):
            return None
        return f"CREATE DATABASE {_quoted(connection, str(wanted.database))}"


def migration(database_url: str, dagster_url: str, role: str | None) -> list[str]:
    """The statements by which `role`, or this one, can make or use Dagster's tables.

    Raises StackError: Dagster's database cannot be reached.
    """
    statement = _creation(database_url, dagster_url)
    are_there = not statement and has_tables(dagster_url)
    with open_connection(database_url if statement else dagster_url) as connection:
        name = role or str(connection.scalar(sa.text("SELECT current_user")))
        quoted = _quoted(connection, name)
        if statement:
            return [f"{statement} OWNER {quoted}"]
        if connection.scalar(_MAY_WRITE if are_there else _MAY_CREATE, {"role": name}):
            return []
    grants = _GRANTS if are_there else ("GRANT CREATE ON SCHEMA public TO {}",)
    return [grant.format(quoted) for grant in grants]


def grant(database_url: str, dagster_url: str, role: str) -> list[str]:
    """Let `role` use Dagster's tables; returns the statements. Raises StackError."""
    statements = migration(database_url, dagster_url, role)
    try:
        with open_connection(dagster_url) as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
    except DBAPIError as error:
        raise StackError(
            f"Dagster's tables cannot be granted: {first_line(error)}: let their owner run"
            f" {'; '.join(statements)}"
        ) from error
    return statements


def _quoted(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)


def create_tables(dagster_url: str) -> None:
    """Raises StackError: the database cannot be reached, or the role may not create tables."""
    if has_tables(dagster_url):
        return
    try:
        DagsterPostgresStorage(dagster_url, should_autocreate_tables=True)
    except DBAPIError as error:
        url = sa.make_url(dagster_url)
        raise StackError(
            f"Dagster's tables cannot be created: {first_line(error)}: let the owner of database"
            f" {url.database} run GRANT CREATE ON SCHEMA public TO {url.username}"
        ) from error


def require_current_tables(dagster_url: str) -> None:
    """Raises StackError: the tables are absent, of another version, or out of reach."""
    if not has_tables(dagster_url):
        raise StackError("Dagster's database lacks its tables: run `lens migrate`")
    if not has_current_tables(dagster_url):
        raise StackError(
            "Dagster's database has tables of another Dagster version: stop whatever else uses it"
            " and run `lens migrate`"
        )


def has_current_tables(dagster_url: str) -> bool:
    storage = DagsterPostgresStorage(dagster_url, should_autocreate_tables=False)
    storages = (storage.run_storage, storage.event_log_storage, storage.schedule_storage)
    versions = [one.alembic_version() for one in storages]
    return all(version is None or version[0] == version[1] for version in versions)


def upgrade_tables(dagster_url: str) -> bool:
    """Returns whether they were older. Processes of the older version fail afterwards."""
    storage = DagsterPostgresStorage(dagster_url, should_autocreate_tables=False)
    if has_current_tables(dagster_url):
        carry_over(dagster_url)
        return False
    # As `dagster instance migrate`: tables first, then what is computed from them.
    storage._run_storage.upgrade()
    storage._run_storage.migrate()
    storage._event_log_storage.upgrade()
    storage._event_log_storage.reindex_assets()
    storage._schedule_storage.upgrade()
    storage._schedule_storage.migrate()
    carry_over(dagster_url)
    return True


def carry_over(dagster_url: str) -> None:
    """Keep what 0.3 has under other names: days with a report, and a backfill that is off.

    Dagster deletes the state of its schedule half a day after the first start.
    """
    storage = DagsterPostgresStorage(dagster_url, should_autocreate_tables=False)
    log = storage.event_log_storage
    days = log.get_materialized_partitions(AssetKey(REPORT_ASSET))
    log.add_dynamic_partitions(REPORT_DAYS, sorted(days))
    schedules = storage.schedule_storage
    states = schedules.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    by_name = {state.instigator_name: state for state in states}
    replaced = by_name.get("backfill")
    if replaced is None or replaced.is_running:
        return
    for name in backfill_schedules().keys() - by_name.keys():
        origin = replaced.origin.repository_origin.get_instigator_origin(name)
        schedules.add_instigator_state(replaced._replace(origin=origin))
