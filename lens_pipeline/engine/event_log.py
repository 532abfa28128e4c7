"""Dagster's event log in PostgreSQL: an asset's event in one transaction, many in one insert."""

from collections.abc import Sequence

import sqlalchemy as sa
from dagster import DagsterEventType, EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.event_log import DynamicPartitionsTable, SqlEventLogStorageTable
from dagster_postgres import PostgresEventLogStorage

from lens_pipeline.engine.schema import Schema

_INSERT = SqlEventLogStorageTable.insert().returning(
    SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
)
# `status.py` reads what our observations say from tags of this prefix.
_OWN_TAGS = "lens/"


class LensEventLogStorage(PostgresEventLogStorage):
    """The event log on the shared pool; see the methods for what differs."""

    def __init__(self, postgres_url: str, engine: sa.Engine, schema: Schema) -> None:
        super().__init__(postgres_url, should_autocreate_tables=False)
        self._engine = engine
        self._schema = schema
        self._partition_lists = PartitionLists(engine)

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event; see `store_event_batch`."""
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events, of any kinds, in the order given.

        An asset's event becomes visible together with its tags. The stock storage writes them
        one after the other, so that a reader can find a materialization that has no revision yet;
        and it writes the events of a planned run one by one, three transactions each.
        """
        kept = [event for event in events if not _is_left_out(event)]
        of_assets = [event for event in kept if _type(event) in ASSET_EVENTS and _asset(event)]
        if not kept:
            return
        with self.index_transaction() if of_assets else self.index_connection() as connection:
            rows = [self._event_to_row(event) for event in kept]
            ids = connection.scalars(_INSERT, rows).all()
            id_of = dict(zip(map(id, kept), ids, strict=True))
            if of_assets:
                asset_ids = [id_of[id(event)] for event in of_assets]
                self._store_asset_event_tags(connection, of_assets, asset_ids)
            # Only an asset's last event leaves a trace there; in an order, against deadlocks.
            last = {_asset(event): event for event in of_assets}
            for asset in sorted(last):
                self._store_asset_event(connection, last[asset], id_of[id(last[asset])])
        for event in kept:
            if _type(event) in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, id_of[id(event)])

    def has_table(self, table_name: str) -> bool:
        ask = super().has_table
        return self._schema.has(f"table {table_name}", lambda: ask(table_name))

    def get_dynamic_partitions(self, partitions_def_name: str) -> Sequence[str]:
        """The keys of a set in insertion order, from memory as far as possible."""
        return self._partition_lists.get(partitions_def_name)

    def get_asset_tags_to_index(self, tag_keys: set[str]) -> set[str]:
        """Also our own tags get rows in `asset_event_tags`; Dagster picks only some of its own."""
        own = {key for key in tag_keys if key.startswith(_OWN_TAGS)}
        return super().get_asset_tags_to_index(tag_keys) | own


def _type(event: EventLogEntry) -> DagsterEventType | None:
    return event.dagster_event_type if event.is_dagster_event else None


def _asset(event: EventLogEntry) -> str:
    key = event.get_dagster_event().asset_key
    return key.to_string() if key else ""


def _is_left_out(event: EventLogEntry) -> bool:
    """As by the stock storage: such events are for Dagster's own hosted service."""
    return event.is_dagster_event and event.get_dagster_event().is_asset_failed_to_materialize


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
