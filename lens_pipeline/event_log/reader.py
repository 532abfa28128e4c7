"""Reads the events of derivatives. What they mean is in `history.py`."""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.errors import ExtraMissing
from lens_pipeline.event_log.changes import LATEST, NEW_EVENTS
from lens_pipeline.event_log.history import (
    IN_FLIGHT,
    History,
    Materialization,
    Observation,
    ObservationKind,
    PlannedRun,
    ReportedProgress,
)
from lens_pipeline.event_log.tags import (
    BLAMELESS_TAG,
    ERROR_CLASS_TAG,
    EXTRA_TAG,
    FAILED_REVISION_TAG,
    KEPT_TAG,
    OUTCOME_TAG,
    PERMANENT_TAG,
    PROGRESS_TAGS,
    REVISION_TAG,
    REVISIONS_TAG,
    SOURCE_TAG,
    UNSTORED_TAG,
)

_KEYS_PER_QUERY = 2000
_TYPES = ["ASSET_MATERIALIZATION", "ASSET_OBSERVATION", "ASSET_MATERIALIZATION_PLANNED"]


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event of one partition; `facts` as `event_metadata`."""

    id: int
    asset: str
    key: str
    run_id: str
    facts: dict[str, Any]


class EventLog:
    """Safe to share between threads, not between processes."""

    def __init__(self, dagster_url: str) -> None:
        self._engine = postgres.connect(
            "lens-pipeline-status",
            dagster_url,
            # Else a run that ends between two queries seems to have made nothing.
            isolation_level="REPEATABLE READ",
            pool_size=2,
            max_overflow=8,
        )

    def close(self) -> None:
        self._engine.dispose()

    def histories(self, asset: str, keys: Iterable[str]) -> dict[str, History]:
        """Four indexed queries for every 2,000 keys."""
        wanted = list(keys)
        found: dict[str, History] = {}
        if not wanted:
            return found
        with self._engine.connect() as connection:
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                found.update(_histories(connection, asset, wanted[start : start + _KEYS_PER_QUERY]))
        return found

    def details(self, event_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """As `event_metadata`, by event id."""
        query = 'SELECT id, "timestamp", event FROM event_logs WHERE id = ANY(:ids)'
        return {row.id: event_metadata(row) for row in self._rows(query, ids=list(event_ids))}

    def events(self, event_ids: Iterable[int]) -> list[RecordedEvent]:
        """Those with a partition, in their order."""
        query = """
            SELECT id, asset_key, partition, run_id, "timestamp", event FROM event_logs
             WHERE id = ANY(:ids) AND partition IS NOT NULL ORDER BY id
        """
        return [
            RecordedEvent(
                row.id,
                json.loads(row.asset_key)[0],
                row.partition,
                row.run_id,
                event_metadata(row),
            )
            for row in self._rows(query, ids=list(event_ids))
        ]

    def times(self, event_ids: Iterable[int]) -> dict[int, dt.datetime]:
        query = 'SELECT id, "timestamp" AS at FROM event_logs WHERE id = ANY(:ids)'
        rows = self._rows(query, ids=list(event_ids))
        return {row.id: row.at.replace(tzinfo=dt.UTC) for row in rows}

    def sources(self, event_ids: Iterable[int]) -> dict[int, str]:
        """The SOURCE_TAG of materializations, by event id; those up to version 0.3 have none."""
        query = """
            SELECT id, substring(event FROM :pattern) AS source FROM event_logs
             WHERE id = ANY(:ids)
        """
        # In texts the quotation marks are escaped.
        pattern = f'"{SOURCE_TAG}": "([a-z0-9_.-]+)"'
        rows = self._rows(query, ids=list(event_ids), pattern=pattern)
        return {row.id: row.source for row in rows if row.source}

    def latest(self, asset: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """As `event_metadata`, of the latest materialization, by partition."""
        rows = self._rows(_MATERIALIZED.text, asset=db_key(asset), keys=list(keys))
        found = self.details(row.id for row in rows) if rows else {}
        return {row.key: found[row.id] for row in rows}

    def extra_urls(self, asset: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """As `event_metadata`, of the latest observation with EXTRA_TAG, by partition."""
        query = """
            SELECT e.partition AS key, max(e.id) AS id
              FROM event_logs e JOIN asset_event_tags t ON t.event_id = e.id AND t.key = :tag
             WHERE e.asset_key = :asset AND e.dagster_event_type = 'ASSET_OBSERVATION'
               AND e.partition = ANY(:keys)
             GROUP BY e.partition
        """
        rows = self._rows(query, asset=db_key(asset), tag=EXTRA_TAG, keys=list(keys))
        found = self.details(row.id for row in rows) if rows else {}
        return {row.key: found[row.id] for row in rows}

    def paths(self, asset: str, keys: Iterable[str]) -> dict[str, str]:
        """The object key of the latest output, by partition."""
        paths = {key: facts.get("path") for key, facts in self.latest(asset, keys).items()}
        return {key: path for key, path in paths.items() if isinstance(path, str)}

    def progress(self, run_ids: Iterable[str]) -> dict[str, ReportedProgress]:
        """By run id."""
        query = """
            SELECT run_id, jsonb_object_agg(key, value) AS tags FROM run_tags
             WHERE run_id = ANY(:ids) AND key = ANY(:keys) GROUP BY run_id
        """
        rows = self._rows(query, ids=list(run_ids), keys=list(PROGRESS_TAGS))
        return {row.run_id: ReportedProgress.of(row.tags) for row in rows}

    def runs_of(self, asset: str, keys: Sequence[str]) -> list[str]:
        """Runs queued or under way for some of these partitions and no other."""
        query = """
            SELECT DISTINCT e.run_id FROM event_logs e JOIN runs r ON r.run_id = e.run_id
             WHERE r.status = ANY(:statuses)
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
               AND e.asset_key = :asset AND e.partition = ANY(:keys)
               AND NOT EXISTS (
                 SELECT FROM event_logs o
                  WHERE o.run_id = e.run_id
                    AND o.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
                    AND (o.partition IS NULL OR o.partition <> ALL(:keys)))
        """
        values = {"asset": db_key(asset), "keys": list(keys), "statuses": list(IN_FLIGHT)}
        return [row.run_id for row in self._rows(query, **values)]

    def in_flight(self, *assets: str) -> set[str]:
        """Partitions of runs queued or under way."""
        query = """
            SELECT DISTINCT e.partition FROM runs r JOIN event_logs e ON e.run_id = r.run_id
             WHERE r.status = ANY(:statuses) AND e.partition IS NOT NULL
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
               AND e.asset_key = ANY(:assets)
        """
        keys = [db_key(asset) for asset in assets]
        rows = self._rows(query, assets=keys, statuses=list(IN_FLIGHT))
        return {row.partition for row in rows}

    def has_unfinished_backfill(self) -> bool:
        """Whether Dagster works on a backfill, which people launch in its UI."""
        query = "SELECT EXISTS (SELECT FROM bulk_actions WHERE status = ANY(:statuses)) AS any"
        statuses = ["REQUESTED", "CANCELING", "FAILING"]
        return any(row.any for row in self._rows(query, statuses=statuses))

    def troubled(self, asset: str) -> set[str]:
        """Partitions that ever failed, or whose run failed or was cancelled."""
        query = """
            SELECT e.partition FROM asset_event_tags t JOIN event_logs e ON e.id = t.event_id
             WHERE t.asset_key = :asset AND t.key = :outcome AND t.value = 'failed'
            UNION
            SELECT e.partition FROM runs r JOIN event_logs e ON e.run_id = r.run_id
             WHERE r.status IN ('FAILURE', 'CANCELED')
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED' AND e.asset_key = :asset
        """
        rows = self._rows(query, asset=db_key(asset), outcome=OUTCOME_TAG)
        return {row.partition for row in rows if row.partition is not None}

    def kept_removals(
        self,
        asset: str,
        *,
        before: dt.datetime | None = None,
        keys: Iterable[str] | None = None,
        restored: bool = False,
    ) -> dict[str, dict[str, Any]]:
        """The metadata of removals that left the object in the store, by partition.

        Without those after which it was materialized or removed again, or, unless `restored`,
        restored. Only those `before`, and those of `keys`, where given.
        """
        query = _KEPT.format(of_keys="" if keys is None else _OF_KEYS)
        ends = [ObservationKind.REMOVED.value]
        if not restored:
            ends.append(ObservationKind.RESTORED.value)
        naive_utc = before and before.astimezone(dt.UTC).replace(tzinfo=None)
        values = {"kept": KEPT_TAG, "outcome": OUTCOME_TAG, "ends": ends, "before": naive_utc}
        rows = self._rows(query, asset=db_key(asset), keys=list(keys or ()), **values)
        last = {row.key: row.id for row in rows}
        made = self._rows(_MATERIALIZED.text, asset=db_key(asset), keys=list(last)) if last else []
        back = {row.key for row in made if row.id > last[row.key]}
        found = self.details(last[key] for key in last.keys() - back) if last else {}
        return {key: found[event] for key, event in last.items() if key not in back}

    def revisions(self, asset: str, keys: Sequence[str]) -> dict[str, str | None]:
        """Of the latest materialization, by partition; removals do not count."""
        # Of a join the planner would read the tags of all events.
        query = """
            SELECT event_id, value FROM asset_event_tags WHERE event_id = ANY(:ids) AND key = :tag
        """
        rows = self._rows(_MATERIALIZED.text, asset=db_key(asset), keys=list(keys))
        tags = self._rows(query, ids=[row.id for row in rows], tag=REVISION_TAG) if rows else []
        found = {row.event_id: row.value for row in tags}
        return {row.key: found.get(row.id) for row in rows}

    def unmade(self, asset: str, since: dt.datetime) -> list[str]:
        """Partitions of runs that failed or were cancelled `since`, and were not made later.

        Also those of observations with EXTRA_TAG, and of an ExtraMissing, that were not made later.
        """
        query = """
            SELECT DISTINCT e.partition FROM runs r JOIN event_logs e ON e.run_id = r.run_id
             WHERE r.status IN ('FAILURE', 'CANCELED') AND r.update_timestamp >= :since
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
               AND e.asset_key = :asset AND e.partition IS NOT NULL
               AND NOT EXISTS (
                 SELECT FROM event_logs m
                  WHERE m.asset_key = :asset AND m.dagster_event_type = 'ASSET_MATERIALIZATION'
                    AND m.partition = e.partition AND m.id > e.id)
            UNION
            SELECT e.partition FROM asset_event_tags t JOIN event_logs e ON e.id = t.event_id
             WHERE t.asset_key = :asset AND e."timestamp" >= :since
               AND (t.key = :tag OR t.key = :class AND t.value = :missing)
               AND NOT EXISTS (
                 SELECT FROM event_logs m
                  WHERE m.asset_key = :asset AND m.dagster_event_type = 'ASSET_MATERIALIZATION'
                    AND m.partition = e.partition AND m.id > e.id)
        """
        naive_utc = since.astimezone(dt.UTC).replace(tzinfo=None)
        names = {"tag": EXTRA_TAG, "class": ERROR_CLASS_TAG, "missing": ExtraMissing.__name__}
        rows = self._rows(query, asset=db_key(asset), since=naive_utc, **names)
        return [row.partition for row in rows]

    def last_event(self, asset: str) -> int:
        """The id of its last event, 0 if there is none; ids become visible in their order."""
        rows = self._rows(LATEST.text, assets=[db_key(asset)], types=_TYPES)
        return max(row.id for row in rows)

    def events_after(self, asset: str, after: int, limit: int) -> dict[int, str]:
        """The partitions of up to `limit` events of each type after that one, by id."""
        values = {"assets": [db_key(asset)], "after": [after], "types": _TYPES, "limit": limit}
        return {row.id: row.partition or "" for row in self._rows(NEW_EVENTS.text, **values)}

    def materialized_after(
        self, after: Mapping[str, int], limit: int
    ) -> dict[int, tuple[str, str]]:
        """Asset and partition of up to `limit` of each asset after its event in `after`, by id."""
        names = {db_key(asset): asset for asset in after}
        values = {"assets": [*names], "after": [*after.values()], "limit": limit}
        rows = self._rows(NEW_EVENTS.text, types=["ASSET_MATERIALIZATION"], **values)
        return {row.id: (names[row.asset], row.partition or "") for row in rows}

    def materialized_keys(self, asset: str, limit: int) -> list[str]:
        """The first `limit` partitions ever materialized, by key."""
        values = {"set": "", "types": ["ASSET_MATERIALIZATION"], "after": "", "limit": limit}
        return [row.key for row in self._rows(_KEYS, asset=db_key(asset), **values)]

    def random_keys(self, asset: str, limit: int) -> list[str]:
        """Of `limit` partitions that were ever materialized."""
        query = """
            SELECT partition FROM (
              SELECT DISTINCT partition FROM event_logs
               WHERE asset_key = :asset AND dagster_event_type = 'ASSET_MATERIALIZATION'
                 AND partition IS NOT NULL) found
             ORDER BY random() LIMIT :limit
        """
        return [row.partition for row in self._rows(query, asset=db_key(asset), limit=limit)]

    def keys_after(self, asset: str, partition_set: str, after: str, limit: int) -> list[str]:
        """The next `limit` partitions that have an event or are in the set, by key."""
        values = {"set": partition_set, "types": _TYPES, "after": after, "limit": limit}
        return [row.key for row in self._rows(_KEYS, asset=db_key(asset), **values)]

    def quiet_keys(
        self, partition_set: str, assets: Sequence[str], before: dt.datetime
    ) -> list[str]:
        """Keys that were in the set `before` and of which the assets have no later event."""
        query = """
            SELECT d.partition FROM dynamic_partitions d
             WHERE d.partitions_def_name = :set AND d.create_timestamp < :before
               AND NOT EXISTS (
                 SELECT FROM event_logs e
                  WHERE e.asset_key = ANY(:assets) AND e.dagster_event_type = ANY(:types)
                    AND e.partition = d.partition AND e."timestamp" >= :before)
             ORDER BY d.partition
        """
        naive_utc = before.astimezone(dt.UTC).replace(tzinfo=None)
        values = {"assets": [db_key(asset) for asset in assets], "types": _TYPES}
        rows = self._rows(query, set=partition_set, before=naive_utc, **values)
        return [row.partition for row in rows]

    def delete_keys(self, partition_set: str, keys: Sequence[str]) -> int:
        """Take keys out of the set, where Dagster would delete one in a transaction.

        Returns the number of those that were in it.
        """
        query = """
            DELETE FROM dynamic_partitions
             WHERE partitions_def_name = :set AND partition = ANY(:keys)
        """
        # Another process may take out the same ones.
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            values = {"set": partition_set, "keys": list(keys)}
            return connection.execute(sa.text(query), values).rowcount

    def _rows(self, query: str, **values: object) -> Sequence[sa.Row]:
        with self._engine.connect() as connection:
            return connection.execute(sa.text(query), values).all()


def db_key(asset: str) -> str:
    return json.dumps([asset])


def _histories(connection: sa.Connection, asset: str, keys: list[str]) -> dict[str, History]:
    values = {"asset": db_key(asset), "keys": keys}
    materialized = connection.execute(_MATERIALIZED, values).all()
    observed = connection.execute(_OBSERVED, values).all()
    planned = connection.execute(_PLANNED, {**values, "revisions": REVISIONS_TAG}).all()
    tags = _tags(connection, [row.id for row in materialized] + [row.id for row in observed])

    observations: dict[str, list[Observation]] = defaultdict(list)
    for row in observed:
        if OUTCOME_TAG in tags[row.id]:  # others may observe assets too
            observations[row.key].append(_observation(row, tags[row.id]))
    plans: dict[str, list[PlannedRun]] = defaultdict(list)
    for row in planned:
        at = row.at.replace(tzinfo=dt.UTC)
        revision = row.revision or None
        plans[row.key].append(
            PlannedRun(row.id, row.run_id, row.status, row.interrupted, at, revision)
        )
    latest = {
        row.key: Materialization(
            row.id, tags[row.id].get(REVISION_TAG), is_stored=UNSTORED_TAG not in tags[row.id]
        )
        for row in materialized
    }
    return {
        key: History(latest.get(key), tuple(observations[key]), tuple(plans[key]))
        for key in latest.keys() | observations.keys() | plans.keys()
    }


# Ordered pages of two indexes: 10 us a key, of which a loose index scan takes 60. The row of a key
# that was added just now may be still to come.
_KEYS = """
    SELECT found.key FROM (
      SELECT e.partition AS key FROM unnest(CAST(:types AS text[])) AS t(type)
       CROSS JOIN LATERAL (
         SELECT DISTINCT partition FROM event_logs
          WHERE asset_key = :asset AND dagster_event_type = t.type AND partition > :after
          ORDER BY partition LIMIT :limit) e
      UNION
      (SELECT partition FROM dynamic_partitions
        WHERE partitions_def_name = :set AND partition > :after
          AND create_timestamp < (now() AT TIME ZONE 'UTC') - interval '1 minute'
        ORDER BY partition LIMIT :limit)) found
     ORDER BY found.key LIMIT :limit
"""
_OF_KEYS = """
       AND e.asset_key = :asset AND e.dagster_event_type = 'ASSET_OBSERVATION'
       AND e.partition = ANY(:keys)
"""
# Without a correlated query: before an ANALYZE that takes minutes.
_KEPT = """
    SELECT e.partition AS key, max(e.id) AS id
      FROM asset_event_tags t JOIN event_logs e ON e.id = t.event_id
     WHERE t.asset_key = :asset {of_keys}
       AND (t.key = :kept OR t.key = :outcome AND t.value = ANY(:ends))
     GROUP BY e.partition
    HAVING max(e.id) = max(e.id) FILTER (
             WHERE t.key = :kept
               AND e."timestamp" < coalesce(CAST(:before AS timestamp), 'infinity'))
"""
# Not one LIMIT 1 a key: before an ANALYZE the planner would read all events for every key.
_MATERIALIZED = sa.text("""
    SELECT partition AS key, max(id) AS id FROM event_logs
     WHERE asset_key = :asset AND dagster_event_type = 'ASSET_MATERIALIZATION'
       AND partition = ANY(:keys) GROUP BY partition
    """)
_OBSERVED = sa.text("""
    SELECT partition AS key, id, run_id, "timestamp" AS at FROM event_logs
     WHERE asset_key = :asset AND dagster_event_type = 'ASSET_OBSERVATION'
       AND partition = ANY(:keys) ORDER BY id
    """)
_PLANNED = sa.text("""
    SELECT e.partition AS key, e.id, e.run_id, e."timestamp" AS at, r.status,
           CASE r.status WHEN 'CANCELED' THEN coalesce(b.status IN ('FAILING', 'FAILED'), false)
             ELSE r.start_time IS NULL OR coalesce(t.value = 'UNEXPECTED_TERMINATION', false)
           END AS interrupted,
           split_part(split_part(' ' || v.value, ' ' || e.partition || '=', 2), ' ', 1) AS revision
      FROM event_logs e
      LEFT JOIN runs r ON r.run_id = e.run_id
      LEFT JOIN bulk_actions b ON b.key = r.backfill_id
      LEFT JOIN run_tags t ON t.run_id = e.run_id AND t.key = 'dagster/failure_reason'
      LEFT JOIN run_tags v ON v.run_id = e.run_id AND v.key = :revisions
     WHERE e.asset_key = :asset AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
       AND e.partition = ANY(:keys) ORDER BY e.id
    """)


def _tags(connection: sa.Connection, event_ids: list[int]) -> dict[int, dict[str, str]]:
    query = sa.text("SELECT event_id, key, value FROM asset_event_tags WHERE event_id = ANY(:ids)")
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(query, {"ids": event_ids}):
        tags[row.event_id][row.key] = row.value
    return tags


def _observation(row: sa.Row, tags: Mapping[str, str]) -> Observation:
    return Observation(
        event_id=row.id,
        run_id=row.run_id,
        kind=ObservationKind(tags[OUTCOME_TAG]),
        revision=tags.get(FAILED_REVISION_TAG),
        error_class=tags.get(ERROR_CLASS_TAG, ""),
        permanent=tags.get(PERMANENT_TAG) == "true",
        blameless=tags.get(BLAMELESS_TAG) == "true",
        at=row.at.replace(tzinfo=dt.UTC),
    )


def event_metadata(row: sa.Row) -> dict[str, Any]:
    """The time as `at`, and metadata of plain values."""
    entry = json.loads(row.event)
    data = (entry.get("dagster_event") or {}).get("event_specific_data") or {}
    event = data.get("materialization") or data.get("asset_observation") or {}
    found: dict[str, Any] = {"at": row.timestamp.replace(tzinfo=dt.UTC)}
    for item in event.get("metadata_entries") or []:
        value = item.get("entry_data") or {}
        for field in ("text", "value", "path", "url", "run_id", "data"):
            if field in value:
                found[item["label"]] = value[field]
                break
    return found


def text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
