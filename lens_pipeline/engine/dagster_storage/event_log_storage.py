"""Dagster's event log in PostgreSQL, with many events in one insert."""

import functools
import time
from collections.abc import Mapping, Sequence
from threading import Lock

import sqlalchemy as sa
from dagster import (
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    EventLogEntry,
    EventRecordsResult,
)
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.event_log import DynamicPartitionsTable, SqlEventLogStorageTable
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy.dialects.postgresql import insert

from lens_pipeline.core.locks import lock_id
from lens_pipeline.engine.dagster_storage.pool import PooledStorage
from lens_pipeline.engine.dagster_storage.schema_cache import Schema
from lens_pipeline.engine.dagster_storage.shown_events import apart, failures, with_hosts
from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.tags import FAILED_TAG, OUTCOME_TAG, SOURCE_TAG

_INSERT = SqlEventLogStorageTable.insert().returning(
    SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
)
_MADE = sa.text(
    "SELECT DISTINCT asset_key, partition FROM event_logs WHERE run_id = :run"
    " AND dagster_event_type = 'ASSET_MATERIALIZATION' AND partition IS NOT NULL"
)
# Of these partitions; the tag is of runs that came to their end.
_UNTRIED = sa.text("""
    SELECT p.key FROM unnest(CAST(:keys AS text[]), CAST(:runs AS text[])) AS p(key, run_id)
     WHERE EXISTS (SELECT FROM run_tags t WHERE t.run_id = p.run_id AND t.key = :tag)
       AND EXISTS (
         SELECT FROM event_logs m WHERE m.asset_key = :asset AND m.partition = p.key
            AND m.dagster_event_type = 'ASSET_MATERIALIZATION')
       AND NOT EXISTS (
         SELECT FROM event_logs o WHERE o.asset_key = :asset AND o.partition = p.key
            AND o.dagster_event_type = 'ASSET_OBSERVATION' AND o.run_id = p.run_id)
    """)
_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
# Counting 100,000 keys takes 20 ms, and one tick resolves several ranges.
_COMPARED_SECONDS = 1.0
_OWN_TAGS = "lens/"


class LensEventLogStorage(PooledStorage, PostgresEventLogStorage):
    def __init__(self, postgres_url: str, engine: sa.Engine, schema: Schema) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._engine = engine
        self._schema = schema
        self._partition_lists = partition_lists_of(postgres_url)
        # Unix time of the last event of an asset; another thread has another run.
        self._latest = 0.0

    def store_event(self, event: EventLogEntry) -> None:
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of any kinds; the stock storage takes three transactions for each of them.

        An asset's event becomes visible together with its tags, which hold the revision, and in the
        order of ids, because Dagster's cache of partition states reads on from the last one.
        """
        kept = [event for event in events if not _is_left_out(event)]
        if not kept:
            return
        if any(map(_is_of_asset, kept)):
            kept = apart(kept, self._latest)
            self._latest = kept[-1].timestamp
        of_assets = list(filter(_is_of_asset, kept))
        with self.index_transaction() if of_assets else self.index_connection() as connection:
            for asset in sorted({_asset(event) for event in of_assets}):
                connection.execute(_LOCK, {"key": lock_id("events", asset)})
            rows = [self._event_to_row(event) for event in kept]
            ids = connection.scalars(_INSERT, rows).all()
            id_of = dict(zip(map(id, kept), ids, strict=True))
            if of_assets:
                asset_ids = [id_of[id(event)] for event in of_assets]
                self._store_asset_event_tags(connection, of_assets, asset_ids)
            # Only an asset's last event stays. Sorted, against deadlocks.
            last = {_asset(event): event for event in of_assets}
            for asset in sorted(last):
                self._store_asset_event(connection, last[asset], id_of[id(last[asset])])
        for event in kept:
            if _type(event) in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, id_of[id(event)])

    def delete_events(self, run_id: str) -> None:
        """Also observe the files that the run made, for what follows the log.

        Else the view shows them as ready for up to an hour, and the backfill leaves them for a day.
        """
        with self.index_connection() as connection:
            made = connection.execute(_MADE, {"run": run_id}).all()
        super().delete_events(run_id)
        for asset, partition in made:
            self._instance.report_runless_asset_event(
                AssetObservation(
                    AssetKey.from_db_string(asset) or "",
                    partition=partition,
                    description=f"Run {run_id}, which made it, was deleted.",
                    # What was made before may be gone from the store.
                    tags={OUTCOME_TAG: ObservationKind.REMOVED.value},
                )
            )

    def fetch_failed_materializations(
        self,
        records_filter: AssetKey | AssetRecordsFilter,
        limit: int,
        cursor: str | None = None,
        ascending: bool = False,
    ) -> EventRecordsResult:
        """The stock storage has none."""
        found = self.fetch_observations(records_filter, limit, cursor, ascending)
        return EventRecordsResult(failures(found.records), found.cursor, found.has_more)

    def fetch_observations(
        self,
        records_filter: AssetKey | AssetRecordsFilter,
        limit: int,
        cursor: str | None = None,
        ascending: bool = False,
    ) -> EventRecordsResult:
        found = super().fetch_observations(records_filter, limit, cursor, ascending)
        return EventRecordsResult(
            list(map(with_hosts, found.records)), found.cursor, found.has_more
        )

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: AssetKey, after_storage_id: int | None = None
    ) -> Mapping[str, tuple[str, int]]:
        """Leave out what is there and was not tried by a run in which another file failed.

        Dagster shows all that such a run did not make as failed, also what was up to date.
        """
        attempts = (
            super().get_latest_asset_partition_materialization_attempts_without_materializations(
                asset_key, after_storage_id
            )
        )
        values = {
            "asset": asset_key.to_string(),
            "keys": list(attempts),
            "runs": [run_id for run_id, _ in attempts.values()],
            "tag": FAILED_TAG,
        }
        with self.index_connection() as connection:
            untried = set(connection.execute(_UNTRIED, values).scalars()) if attempts else set()
        return {key: attempt for key, attempt in attempts.items() if key not in untried}

    def has_table(self, table_name: str) -> bool:
        ask = super().has_table
        return self._schema.has(f"table {table_name}", lambda: ask(table_name))

    def add_dynamic_partitions(
        self, partitions_def_name: str, partition_keys: Sequence[str]
    ) -> None:
        """One at a time for each set: new keys become neighbours, which share a run's range."""
        if not partition_keys:
            return
        name = partitions_def_name
        rows = [{"partitions_def_name": name, "partition": key} for key in partition_keys]
        with self.index_transaction() as connection:
            connection.execute(_LOCK, {"key": lock_id("partitions", name)})
            connection.execute(insert(_table).values(rows).on_conflict_do_nothing())

    def get_dynamic_partitions(self, partitions_def_name: str) -> Sequence[str]:
        return self._partition_lists.get(self._engine, partitions_def_name)

    def delete_dynamic_partition(self, partitions_def_name: str, partition_key: str) -> None:
        super().delete_dynamic_partition(partitions_def_name, partition_key)
        self._partition_lists.forget(partitions_def_name)

    def get_asset_tags_to_index(self, tag_keys: set[str]) -> set[str]:
        """Add ours: Dagster indexes only some of its own tags."""
        own = {key for key in tag_keys if key.startswith(_OWN_TAGS) and key != SOURCE_TAG}
        return super().get_asset_tags_to_index(tag_keys) | own


def _type(event: EventLogEntry) -> DagsterEventType | None:
    return event.dagster_event_type if event.is_dagster_event else None


def _is_of_asset(event: EventLogEntry) -> bool:
    return _type(event) in ASSET_EVENTS and bool(_asset(event))


def _asset(event: EventLogEntry) -> str:
    key = event.get_dagster_event().asset_key
    return key.to_string() if key else ""


def _is_left_out(event: EventLogEntry) -> bool:
    """Such events are for Dagster's hosted service."""
    return event.is_dagster_event and event.get_dagster_event().is_asset_failed_to_materialize


class PartitionLists:
    """Dynamic partition sets of one database, read whole only after keys have left them.

    Dagster reads a set for every range: at 100,000 keys this takes about a second a run, in the
    daemon and again in the worker. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Sequence[str]]] = {}
        self._compared_at: dict[str, float] = {}
        self._lock = Lock()

    def get(self, engine: sa.Engine, partitions_def_name: str) -> Sequence[str]:
        """Return keys in insertion order. Callers must not change the list."""
        name = partitions_def_name
        with self._lock, engine.connect() as connection:
            last_id, keys = self._known.get(name, (0, []))
            if keys and not self._is_whole(connection, name, last_id, len(keys)):
                last_id, keys = 0, []
            added = connection.execute(_AFTER, {"name": name, "last": last_id}).all()
            if added and not set(keys).isdisjoint(row.partition for row in added):
                # A key has left the set and come back: its place is another.
                added, keys = connection.execute(_AFTER, {"name": name, "last": 0}).all(), []
            if added:
                last_id, keys = added[-1].id, [*keys, *(row.partition for row in added)]
            self._known[name] = (last_id, keys)
            return keys

    def forget(self, partitions_def_name: str) -> None:
        with self._lock:
            self._known.pop(partitions_def_name, None)

    def _is_whole(self, connection: sa.Connection, name: str, last_id: int, known: int) -> bool:
        """Whether no known key has left the set; asked at most once a second."""
        now = time.monotonic()
        if now - self._compared_at.get(name, 0.0) < _COMPARED_SECONDS:
            return True
        there = connection.scalar(_COUNT_UP_TO, {"name": name, "last": last_id})
        self._compared_at[name] = now
        return there == known


@functools.cache
def partition_lists_of(_postgres_url: str) -> PartitionLists:
    return PartitionLists()


_table = DynamicPartitionsTable
_COUNT_UP_TO = sa.select(sa.func.count()).where(
    _table.c.partitions_def_name == sa.bindparam("name"), _table.c.id <= sa.bindparam("last")
)
_AFTER = (
    sa.select(_table.c.id, _table.c.partition)
    .where(_table.c.partitions_def_name == sa.bindparam("name"), _table.c.id > sa.bindparam("last"))
    .order_by(_table.c.id)
)
