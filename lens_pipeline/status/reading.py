"""What Dagster's event log says about a derivative.

The log is read by SQL rather than through Dagster's API because a page of ids must cost a constant
number of indexed queries at any number of partitions. The tables and their indexes are those of
dagster 1.13 (`event_logs`, `asset_event_tags`, `runs`).
"""

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.core.postgres import connect_args, notice_lost_clients

# Dagster's own tag, shown by its UI as the data version.
REVISION_TAG = "dagster/data_version"
# Ours, on observations.
OUTCOME_TAG = "lens/outcome"
FAILED_REVISION_TAG = "lens/revision"
ERROR_CLASS_TAG = "lens/error_class"
PERMANENT_TAG = "lens/permanent"
BLAMELESS_TAG = "lens/blameless"
# Ours, on runs.
PROGRESS_TAG = "lens/progress"

IN_FLIGHT = frozenset({"QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "CANCELING"})
_KEYS_PER_QUERY = 2000


class State(StrEnum):
    """The derived status of one derivative."""

    NONE = "none"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    DEAD = "dead"


class Outcome(StrEnum):
    """What an observation on a partition says."""

    FAILED = "failed"
    RETRY = "retry"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Materialized:
    """The latest materialization of a partition."""

    event_id: int
    revision: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """One of our observations on a partition."""

    event_id: int
    run_id: str
    outcome: Outcome
    revision: str | None
    error_class: str
    permanent: bool
    # The fault lay with our surroundings; see `failures.DerivativeError.blameless`.
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that was to materialize a partition, and how that run stands (None: deleted)."""

    event_id: int
    run_id: str
    run_status: str | None
    # Ended by a stop of its worker, or never begun: says nothing about its files.
    interrupted: bool = False
    at: dt.datetime | None = None

    def precedes(self, moment: dt.datetime | None) -> bool:
        """Whether it was planned before `moment`; False if either time is unknown."""
        return self.at is not None and moment is not None and self.at < moment


@dataclass(frozen=True, slots=True)
class History:
    """What the event log holds about one partition; marks and plans oldest first."""

    materialized: Materialized | None = None
    marks: tuple[Mark, ...] = ()
    planned: tuple[Planned, ...] = ()

    @property
    def is_removed(self) -> bool:
        """Whether the output was deleted and not made again."""
        made_at = self.materialized.event_id if self.materialized else 0
        return _last(self.marks, Outcome.REMOVED) > made_at

    @property
    def is_in_flight(self) -> bool:
        """Whether a run that is queued or under way is to materialize it."""
        return any(plan.run_status in IN_FLIGHT for plan in self.planned)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one derivative stands; `attempts` failed since the last success or retry."""

    state: State
    attempts: int = 0
    error_class: str | None = None
    run_id: str | None = None
    event_id: int | None = None
    # Made for an earlier state of its row, or with other parameters.
    outdated: bool = False


CANCELED = "Canceled"
RUN_FAILED = "RunFailed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row calls for now, and when it came to call for it."""

    revision: str
    changed_at: dt.datetime | None = None


def standing(
    history: History, revision: str, max_attempts: int, changed_at: dt.datetime | None = None
) -> Standing:
    """Derive the state of one partition whose row calls for `revision` since `changed_at`.

    A run that was cancelled, or ended without a word, left no revision behind: it counts only if
    it was planned after the row's last change.
    """
    removed_at = _last(history.marks, Outcome.REMOVED)
    materialized = history.materialized
    if materialized is not None and materialized.event_id < removed_at:
        materialized = None
    materialized_at = materialized.event_id if materialized else 0
    since = max(materialized_at, removed_at, _last(history.marks, Outcome.RETRY))

    failures = [
        mark
        for mark in history.marks
        if mark.event_id > since and mark.outcome is Outcome.FAILED and mark.revision == revision
    ]
    is_up_to_date = materialized is not None and materialized.revision == revision
    spoken_for = {mark.run_id for mark in history.marks if mark.outcome is Outcome.FAILED}
    plans = [plan for plan in history.planned if plan.event_id > since]
    crashed = [
        plan
        for plan in plans
        # One that would have found nothing to do says nothing by its end.
        if not is_up_to_date
        and plan.run_status == "FAILURE"
        and not plan.interrupted
        and not plan.precedes(changed_at)
        and plan.run_id not in spoken_for
    ]
    latest = plans[-1] if plans else None
    attempts = sum(not mark.blameless for mark in failures) + len(crashed)

    if latest and latest.run_status in IN_FLIGHT and latest.run_id not in spoken_for:
        # What has failed to be made anew is not ready, or no run would try it again.
        if is_up_to_date and not failures:
            return Standing(State.READY, run_id=latest.run_id, event_id=materialized_at)
        return Standing(State.PROCESSING, attempts, run_id=latest.run_id)
    if (
        latest
        and latest.run_status == "CANCELED"
        and not latest.precedes(changed_at)
        and latest.run_id not in spoken_for
    ):
        if is_up_to_date:  # to be made again, which somebody thought better of
            return Standing(State.READY, event_id=materialized_at)
        return Standing(State.DEAD, attempts, CANCELED, latest.run_id, latest.event_id)
    if failures or crashed:
        last = max([*failures, *crashed], key=lambda event: event.event_id)
        error_class = last.error_class if isinstance(last, Mark) else RUN_FAILED
        given_up = attempts >= max_attempts or (isinstance(last, Mark) and last.permanent)
        state = State.DEAD if given_up else State.FAILED
        return Standing(state, attempts, error_class, last.run_id, last.event_id)
    if is_up_to_date:
        return Standing(State.READY, event_id=materialized_at)
    return Standing(State.NONE, outdated=materialized is not None)


def _last(marks: Iterable[Mark], outcome: Outcome) -> int:
    return max((mark.event_id for mark in marks if mark.outcome is outcome), default=0)


class EventLog:
    """Reads Dagster's storage. Safe to share between threads, not between processes."""

    def __init__(self, dagster_url: str) -> None:
        self._engine = sa.create_engine(
            dagster_url,
            # One snapshot for all queries of a reading: a run that ends between two of them would
            # look as if it had ended without a materialization.
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,
            pool_size=2,
            max_overflow=8,
            connect_args=connect_args("lens-pipeline-status"),
        )
        notice_lost_clients(self._engine)
        postgres.bound_transactions(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def standings(
        self, asset: str, wanted: Mapping[str, Wanted], max_attempts: int
    ) -> dict[str, Standing]:
        """The standing of each partition of `asset`, given what its row calls for now."""
        histories = self.histories(asset, wanted)
        now = dt.datetime.now(dt.UTC)
        return {
            key: standing(
                histories.get(key, History()),
                want.revision,
                max_attempts,
                # A row stamped in the future would outdate every run for ever.
                want.changed_at if want.changed_at and want.changed_at <= now else None,
            )
            for key, want in wanted.items()
        }

    def histories(self, asset: str, keys: Iterable[str]) -> dict[str, History]:
        """What the log holds about each partition; four indexed queries for every 2,000 keys."""
        wanted = list(keys)
        found: dict[str, History] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                found.update(_histories(connection, asset, wanted[start : start + _KEYS_PER_QUERY]))
        return found

    def details(self, event_ids: Iterable[int]) -> dict[int, dict[str, object]]:
        """Time and metadata of events, by event id: plain values, without tables and pictures."""
        query = sa.text('SELECT id, "timestamp", event FROM event_logs WHERE id = ANY(:ids)')
        with self._engine.connect() as connection:
            rows = connection.execute(query, {"ids": list(event_ids)}).all()
        return {row.id: event_metadata(row) for row in rows}

    def times(self, event_ids: Iterable[int]) -> dict[int, dt.datetime]:
        """When each event happened, by event id."""
        query = sa.text('SELECT id, "timestamp" AS at FROM event_logs WHERE id = ANY(:ids)')
        with self._engine.connect() as connection:
            rows = connection.execute(query, {"ids": list(event_ids)}).all()
        return {row.id: row.at.replace(tzinfo=dt.UTC) for row in rows}

    def paths(self, asset: str, keys: Iterable[str]) -> dict[str, str]:
        """Where the latest output of each partition was stored; absent if none was."""
        with self._engine.connect() as connection:
            rows = connection.execute(_MATERIALIZED, {"asset": db_key(asset), "keys": list(keys)})
            events = {row.key: row.id for row in rows}
        if not events:
            return {}
        found = self.details(events.values())
        paths = {key: found[event_id].get("path") for key, event_id in events.items()}
        return {key: path for key, path in paths.items() if isinstance(path, str)}

    def progress(self, run_id: str) -> str | None:
        """How far a run says it is, in words."""
        query = sa.text("SELECT value FROM run_tags WHERE run_id = :run_id AND key = :key")
        with self._engine.connect() as connection:
            return connection.execute(query, {"run_id": run_id, "key": PROGRESS_TAG}).scalar()

    def progresses(self, run_ids: Iterable[str]) -> dict[str, str]:
        """How far each run says it is, in words, by run id; absent if it does not say."""
        query = sa.text(
            "SELECT run_id, value FROM run_tags WHERE run_id = ANY(:ids) AND key = :key"
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query, {"ids": list(run_ids), "key": PROGRESS_TAG})
            return {row.run_id: row.value for row in rows}

    def runs_of(self, asset: str, key: str) -> list[str]:
        """Runs queued or under way that are to materialize this partition, and no other."""
        query = sa.text(
            """
            SELECT DISTINCT e.run_id FROM event_logs e JOIN runs r ON r.run_id = e.run_id
             WHERE r.status = ANY(:statuses)
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
               AND e.asset_key = :asset AND e.partition = :key
               AND NOT EXISTS (
                 SELECT FROM event_logs o
                  WHERE o.run_id = e.run_id
                    AND o.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
                    AND o.partition IS DISTINCT FROM e.partition)
            """
        )
        with self._engine.connect() as connection:
            values = {"asset": db_key(asset), "key": key, "statuses": list(IN_FLIGHT)}
            return list(connection.execute(query, values).scalars())

    def in_flight(self, asset: str) -> set[str]:
        """Partitions that runs are to materialize which are queued or under way."""
        query = sa.text(
            """
            SELECT DISTINCT e.partition FROM runs r JOIN event_logs e ON e.run_id = r.run_id
             WHERE r.status = ANY(:statuses)
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED' AND e.asset_key = :asset
            """
        )
        with self._engine.connect() as connection:
            values = {"asset": db_key(asset), "statuses": list(IN_FLIGHT)}
            rows = connection.execute(query, values)
            return {key for key in rows.scalars() if key is not None}

    def troubled(self, asset: str) -> set[str]:
        """Partitions that ever failed, or were planned by a run that failed or was cancelled."""
        query = sa.text(
            """
            SELECT e.partition FROM asset_event_tags t JOIN event_logs e ON e.id = t.event_id
             WHERE t.asset_key = :asset AND t.key = :outcome AND t.value = 'failed'
            UNION
            SELECT e.partition FROM runs r JOIN event_logs e ON e.run_id = r.run_id
             WHERE r.status IN ('FAILURE', 'CANCELED')
               AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED' AND e.asset_key = :asset
            """
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query, {"asset": db_key(asset), "outcome": OUTCOME_TAG})
            return {key for key in rows.scalars() if key is not None}

    def materialized_keys(self, asset: str, after: str, limit: int) -> list[str]:
        """The next `limit` partitions of `asset` ever materialized, in key order after `after`.

        One index probe a key (a loose index scan): skips the many events that a key may have.
        """
        query = sa.text(
            """
            WITH RECURSIVE keys AS (
              (SELECT partition, 1 AS n FROM event_logs
                WHERE asset_key = :asset AND dagster_event_type = 'ASSET_MATERIALIZATION'
                  AND partition > :after ORDER BY partition LIMIT 1)
              UNION ALL
              SELECT (SELECT e.partition FROM event_logs e
                       WHERE e.asset_key = :asset AND e.dagster_event_type = 'ASSET_MATERIALIZATION'
                         AND e.partition > keys.partition ORDER BY e.partition LIMIT 1), n + 1
                FROM keys WHERE keys.partition IS NOT NULL AND n < :limit)
            SELECT partition FROM keys WHERE partition IS NOT NULL
            """
        )
        with self._engine.connect() as connection:
            rows = connection.execute(
                query, {"asset": db_key(asset), "after": after, "limit": limit}
            )
            return list(rows.scalars())

    def materialized_before(self, asset: str, keys: Iterable[str], before: dt.datetime) -> set[str]:
        """Those of `keys` whose latest event is a materialization older than `before`."""
        query = sa.text(
            """
            SELECT k.key FROM unnest(:keys) AS k(key)
            CROSS JOIN LATERAL (
              SELECT max(id) AS id, max("timestamp") AS at FROM event_logs
               WHERE asset_key = :asset AND dagster_event_type = 'ASSET_MATERIALIZATION'
                 AND partition = k.key) m
            CROSS JOIN LATERAL (
              SELECT max(id) AS id FROM event_logs
               WHERE asset_key = :asset AND partition = k.key AND dagster_event_type IN
                     ('ASSET_MATERIALIZATION_PLANNED', 'ASSET_OBSERVATION')) o
            WHERE m.at < :before AND coalesce(o.id, 0) < m.id
            """
        )
        naive_utc = before.astimezone(dt.UTC).replace(tzinfo=None)
        with self._engine.connect() as connection:
            rows = connection.execute(
                query, {"asset": db_key(asset), "keys": list(keys), "before": naive_utc}
            )
            return set(rows.scalars())


def db_key(asset: str) -> str:
    return json.dumps([asset])


def _histories(connection: sa.Connection, asset: str, keys: list[str]) -> dict[str, History]:
    values = {"asset": db_key(asset), "keys": keys}
    materialized = connection.execute(_MATERIALIZED, values).all()
    observed = connection.execute(_OBSERVED, values).all()
    planned = connection.execute(_PLANNED, values).all()
    tags = _tags(connection, [row.id for row in materialized] + [row.id for row in observed])

    marks: dict[str, list[Mark]] = defaultdict(list)
    for row in observed:
        mark = _mark(row, tags[row.id])
        if mark is not None:
            marks[row.key].append(mark)
    plans: dict[str, list[Planned]] = defaultdict(list)
    for row in planned:
        at = row.at.replace(tzinfo=dt.UTC)
        plans[row.key].append(Planned(row.id, row.run_id, row.status, row.interrupted, at))
    latest = {row.key: Materialized(row.id, tags[row.id].get(REVISION_TAG)) for row in materialized}
    return {
        key: History(latest.get(key), tuple(marks[key]), tuple(plans[key]))
        for key in latest.keys() | marks.keys() | plans.keys()
    }


# Grouped rather than one LIMIT 1 a key: right after a bulk load, before the first ANALYZE, the
# planner would read all events of the asset for every key.
_MATERIALIZED = sa.text(
    """
    SELECT partition AS key, max(id) AS id FROM event_logs
     WHERE asset_key = :asset AND dagster_event_type = 'ASSET_MATERIALIZATION'
       AND partition = ANY(:keys) GROUP BY partition
    """
)
_OBSERVED = sa.text(
    """
    SELECT partition AS key, id, run_id FROM event_logs
     WHERE asset_key = :asset AND dagster_event_type = 'ASSET_OBSERVATION'
       AND partition = ANY(:keys) ORDER BY id
    """
)
_PLANNED = sa.text(
    """
    SELECT e.partition AS key, e.id, e.run_id, e."timestamp" AS at, r.status,
           r.start_time IS NULL OR coalesce(t.value = 'UNEXPECTED_TERMINATION', false)
             AS interrupted
      FROM event_logs e
      LEFT JOIN runs r ON r.run_id = e.run_id
      LEFT JOIN run_tags t ON t.run_id = e.run_id AND t.key = 'dagster/failure_reason'
     WHERE e.asset_key = :asset AND e.dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
       AND e.partition = ANY(:keys) ORDER BY e.id
    """
)


def _tags(connection: sa.Connection, event_ids: list[int]) -> dict[int, dict[str, str]]:
    query = sa.text("SELECT event_id, key, value FROM asset_event_tags WHERE event_id = ANY(:ids)")
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(query, {"ids": event_ids}):
        tags[row.event_id][row.key] = row.value
    return tags


def _mark(row: sa.Row, tags: Mapping[str, str]) -> Mark | None:
    if OUTCOME_TAG not in tags:  # somebody else's observation
        return None
    return Mark(
        event_id=row.id,
        run_id=row.run_id,
        outcome=Outcome(tags[OUTCOME_TAG]),
        revision=tags.get(FAILED_REVISION_TAG),
        error_class=tags.get(ERROR_CLASS_TAG, ""),
        permanent=tags.get(PERMANENT_TAG) == "true",
        blameless=tags.get(BLAMELESS_TAG) == "true",
    )


def event_metadata(row: sa.Row) -> dict[str, object]:
    entry = json.loads(row.event)
    data = (entry.get("dagster_event") or {}).get("event_specific_data") or {}
    event = data.get("materialization") or data.get("asset_observation") or {}
    found: dict[str, object] = {"at": row.timestamp.replace(tzinfo=dt.UTC)}
    for item in event.get("metadata_entries") or []:
        value = item.get("entry_data") or {}
        for field in ("text", "value", "path", "url", "run_id"):
            if field in value:
                found[item["label"]] = value[field]
                break
    return found
