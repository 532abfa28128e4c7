"""Dagster's PostgreSQL storage over one connection pool.

The stock storage opens a connection for every event: 18-34 ms an event against 5-6 ms pooled.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.config import PostgresStorageConfig
from dagster._core.storage.event_log import DynamicPartitionsTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from lens_pipeline import settings
from lens_pipeline.stack.endpoints import StackError, resolve

# The daemon submits and dequeues from about ten threads; a worker's child needs two or three.
_POOL = {"pool_size": 4, "max_overflow": 20, "pool_recycle": 1800}
# `status.py` reads what our observations say from tags of this prefix.
_OWN_TAGS = "lens/"


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` whose three storages share one pool, at the URL of our settings.

    Tables are created by `prepare()` only: looking for them at every start costs each process
    three connections and queries.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False, inst_data=inst_data)
        # pre_ping: after a restart of the server the first event must not be lost.
        engine = sa.create_engine(
            postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "application_name": "lens-pipeline-dagster"},
            **_POOL,
        )
        self._run_storage._engine = engine
        self._schedule_storage._engine = engine
        self._event_log_storage = LensEventLogStorage(postgres_url, engine)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: PostgresStorageConfig
    ) -> "PooledPostgresStorage":
        return cls(resolve(settings.load()[0], broker=False).dagster_url, inst_data)


class LensEventLogStorage(PostgresEventLogStorage):
    """The event log on the shared pool; see the two methods for what differs."""

    def __init__(self, postgres_url: str, engine: sa.Engine) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._engine = engine
        self._partition_lists = PartitionLists(engine)

    def get_dynamic_partitions(self, partitions_def_name: str) -> Sequence[str]:
        """The keys of a set in insertion order, from memory as far as possible."""
        return self._partition_lists.get(partitions_def_name)

    def get_asset_tags_to_index(self, tag_keys: set[str]) -> set[str]:
        """Also our own tags get rows in `asset_event_tags`; Dagster picks only some of its own."""
        own = {key for key in tag_keys if key.startswith(_OWN_TAGS)}
        return super().get_asset_tags_to_index(tag_keys) | own


class PartitionLists:
    """The keys of each dynamic partition set, read whole only when the set has changed otherwise
    than by appending.

    Dagster reads the whole set to resolve any range of keys: at 100,000 keys about a second for
    each run, in the daemon and again in the worker.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[int, Sequence[str]]] = {}

    def get(self, partitions_def_name: str) -> Sequence[str]:
        """The keys of the set in insertion order; callers must not change the list."""
        last_id, keys = self._known.get(partitions_def_name, (0, ()))
        with self._engine.connect() as connection:
            row = connection.execute(_UP_TO, {"name": partitions_def_name, "last": last_id}).one()
            if row.known != len(keys):
                last_id, keys = 0, ()
            added = connection.execute(_AFTER, {"name": partitions_def_name, "last": last_id}).all()
        if added:
            last_id, keys = added[-1].id, [*keys, *(row.partition for row in added)]
            self._known[partitions_def_name] = (last_id, keys)
        elif not keys:
            self._known.pop(partitions_def_name, None)
        return keys


_table = DynamicPartitionsTable
_UP_TO = sa.select(sa.func.count().label("known")).where(
    _table.c.partitions_def_name == sa.bindparam("name"), _table.c.id <= sa.bindparam("last")
)
_AFTER = (
    sa.select(_table.c.id, _table.c.partition)
    .where(_table.c.partitions_def_name == sa.bindparam("name"), _table.c.id > sa.bindparam("last"))
    .order_by(_table.c.id)
)


def create_database(database_url: str, dagster_url: str) -> bool:
    """Create Dagster's database on the server of `database_url` if it is absent; says whether.

    Raises sqlalchemy.exc.DBAPIError: it is absent and the role may not create it.
    """
    wanted = sa.make_url(dagster_url)
    application = sa.make_url(database_url)
    if (wanted.host, wanted.port) != (application.host, application.port):
        return False
    engine = sa.create_engine(database_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        exists = connection.execute(
            sa.text("SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name)"),
            {"name": wanted.database},
        ).scalar()
        if not exists:
            quoted = connection.dialect.identifier_preparer.quote(str(wanted.database))
            connection.execute(sa.text(f"CREATE DATABASE {quoted}"))
    return not exists


def prepare(dagster_url: str) -> None:
    """Create Dagster's tables where absent, and bring older ones up to this Dagster's version.

    Raises StackError: the database cannot be reached.
    """
    try:
        sa.create_engine(dagster_url, poolclass=NullPool).connect().close()
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StackError(
            f"Dagster's database (LENS_DAGSTER_URL) cannot be reached: {reason}"
            " (`lens migrate` creates it if it does not exist)"
        ) from error
    storage = DagsterPostgresStorage(dagster_url, should_autocreate_tables=True)
    versions = (
        storage.run_storage.alembic_version(),
        storage.event_log_storage.alembic_version(),
        storage.schedule_storage.alembic_version(),
    )
    if any(version is not None and version[0] != version[1] for version in versions):
        storage._run_storage.upgrade()
        storage._event_log_storage.upgrade()
        storage._schedule_storage.upgrade()
