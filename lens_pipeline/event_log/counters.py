"""Figures of the event log and the run queue for `monitoring/`; whole days: `daily.py`."""

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.event_log.changes import last_before
from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.reader import event_metadata, number
from lens_pipeline.event_log.tags import ERROR_CLASS_TAG, OUTCOME_TAG, PERMANENT_TAG

STAGES = ("fetch", "render", "store")


@dataclass(frozen=True, slots=True)
class Made:
    """A derivative made by a run; durations in seconds, where known."""

    asset: str
    latency: float | None
    stages: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Missed:
    asset: str
    error_class: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """The runs that wait, and since when the first one does."""

    depth: int
    since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class HourlyOutcome:
    """Each file counts once, by its last event."""

    made: int
    failed: int
    main_error: str | None = None

    @property
    def percent(self) -> float:
        total = self.made + self.failed
        return 100 * self.made / total if total else 100.0


class FigureLog:
    """Safe to share between threads."""

    def __init__(self, dagster_url: str) -> None:
        self._engine = postgres.connect("lens-pipeline-figures", dagster_url, connect_seconds=5)

    def close(self) -> None:
        self._engine.dispose()

    def events(
        self, materialized: Sequence[int], failed: Sequence[int]
    ) -> tuple[list[Made], list[Missed]]:
        with self._engine.connect() as connection:
            rows = connection.execute(_EVENTS, {"ids": list(materialized)})
            return [_made(row) for row in rows], missed_of(connection, failed)

    def outcome(self, assets: Sequence[str], since: dt.datetime) -> HourlyOutcome:
        """The outcome of the attempts at these assets since then."""
        with self._engine.connect() as connection:
            values = {
                "assets": [json.dumps([asset]) for asset in assets],
                "after": last_before(connection, since),
                "outcome": OUTCOME_TAG,
                "failed": ObservationKind.FAILED.value,
                "error_class": ERROR_CLASS_TAG,
            }
            row = connection.execute(_HOURLY, values).one()
        return HourlyOutcome(row.made, row.failed, row.main_error)

    def queues(self, tag: str) -> dict[str, QueueLoad]:
        """Runs that wait for the daemon or a worker, by their `tag`."""
        with self._engine.connect() as connection:
            rows = connection.execute(_QUEUES, {"tag": tag}).all()
        return {
            row.queue: QueueLoad(row.depth, row.since and row.since.replace(tzinfo=dt.UTC))
            for row in rows
        }


def _made(row: sa.Row) -> Made:
    facts = event_metadata(row)
    stages = [(stage, number(facts.get(f"{stage}_seconds"))) for stage in STAGES]
    return Made(
        json.loads(row.asset_key)[0],
        number(facts.get("latency_seconds")),
        tuple((stage, seconds) for stage, seconds in stages if seconds is not None),
    )


def missed_of(connection: sa.Connection, event_ids: Iterable[int]) -> list[Missed]:
    """The failures among these observations."""
    values = {
        "ids": list(event_ids),
        "outcome": OUTCOME_TAG,
        "failed": ObservationKind.FAILED.value,
        "error_class": ERROR_CLASS_TAG,
        "permanent": PERMANENT_TAG,
    }
    return [
        Missed(json.loads(row.asset_key)[0], row.error_class or "", row.permanent == "true")
        for row in connection.execute(_OUTCOMES, values)
    ]


_EVENTS = sa.text('SELECT asset_key, "timestamp", event FROM event_logs WHERE id = ANY(:ids)')
# Adopted files have no run.
_HOURLY = sa.text("""
    WITH hour AS (
      SELECT asset_key, partition, id, true AS made, NULL AS error_class FROM event_logs
       WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND id > :after
         AND asset_key = ANY(:assets) AND run_id <> ''
      UNION ALL
      SELECT e.asset_key, e.partition, e.id, false, c.value FROM asset_event_tags t
        JOIN event_logs e ON e.id = t.event_id
        LEFT JOIN asset_event_tags c ON c.event_id = t.event_id AND c.key = :error_class
       WHERE t.event_id > :after AND t.key = :outcome AND t.value = :failed
         AND e.asset_key = ANY(:assets))
    SELECT count(*) FILTER (WHERE made) AS made, count(*) FILTER (WHERE NOT made) AS failed,
           mode() WITHIN GROUP (ORDER BY error_class) AS main_error
      FROM (SELECT DISTINCT ON (asset_key, partition) made, error_class FROM hour
             ORDER BY asset_key, partition, id DESC) AS last
    """)
_OUTCOMES = sa.text("""
    SELECT o.asset_key, c.value AS error_class, p.value AS permanent
      FROM asset_event_tags o
      LEFT JOIN asset_event_tags c ON c.event_id = o.event_id AND c.key = :error_class
      LEFT JOIN asset_event_tags p ON p.event_id = o.event_id AND p.key = :permanent
     WHERE o.event_id = ANY(:ids) AND o.key = :outcome AND o.value = :failed
    """)
# Times of events are in UTC, those of `runs` in the zone of their writer.
_QUEUES = sa.text("""
    WITH waiting AS (
      SELECT r.id, r.run_id, t.value AS queue FROM runs r
        JOIN run_tags t ON t.run_id = r.run_id AND t.key = :tag
       WHERE r.status IN ('QUEUED', 'NOT_STARTED', 'STARTING'))
    SELECT w.queue, w.depth, e.at AS since
      FROM (SELECT queue, count(*) AS depth, min(id) AS first FROM waiting GROUP BY queue) w
      JOIN waiting f ON f.id = w.first
      LEFT JOIN LATERAL (
        SELECT "timestamp" AS at FROM event_logs
         WHERE run_id = f.run_id ORDER BY id LIMIT 1) e ON true
    """)
