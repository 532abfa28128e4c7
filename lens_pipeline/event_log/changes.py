"""What is new in the event log since a position in it, cheap enough for a few reads a second.

Only an asset's events become visible in the order of their ids (see `engine/dagster_storage`): the
ends of runs are read again for some seconds.
"""

import datetime as dt
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.event_log.history import IN_FLIGHT, ObservationKind, ReportedProgress
from lens_pipeline.event_log.tags import OUTCOME_TAG, PROGRESS_TAGS

ENDS = ["PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED"]
_MATERIALIZED, _OBSERVED = "ASSET_MATERIALIZATION", "ASSET_OBSERVATION"
TYPES = [_MATERIALIZED, _OBSERVED, "ASSET_MATERIALIZATION_PLANNED"]
# An end becomes visible at most this long after it got its id; the status in `runs` changes later.
_END_SECONDS = 5.0
# An end that is not in `runs` by then never gets there.
UNSETTLED_SECONDS = 60.0
_POSITION = re.compile(r"\d{1,19}(-\d{1,19})*")


@dataclass(frozen=True, slots=True)
class Position:
    """The ids of the last event read of each asset, and of the last end of a run."""

    assets: tuple[int, ...]
    ends: int

    def __str__(self) -> str:
        return "-".join(map(str, (*self.assets, self.ends)))

    @classmethod
    def parse(cls, text: str, assets: int) -> Self | None:
        """None if `text` is no position in a log of `assets` assets."""
        if not _POSITION.fullmatch(text):
            return None
        numbers = [int(part) for part in text.split("-")]
        if len(numbers) != assets + 1 or max(numbers) >= 1 << 63:
            return None
        return cls(tuple(numbers[:-1]), numbers[-1])

    def is_beyond(self, other: "Position") -> bool:
        """Whether any asset was read further than in `other`."""
        return any(a > b for a, b in zip(self.assets, other.assets, strict=True))


@dataclass(frozen=True, slots=True)
class Changes:
    position: Position
    touched: Mapping[str, set[str]]
    materialized: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    """Event ids of materializations by runs, and of failures."""
    more: bool = False


class ChangeLog:
    """Thread-safe, except `read`, which is for one thread."""

    def __init__(
        self, dagster_url: str, assets: Sequence[str], types: Sequence[str] = tuple(TYPES)
    ) -> None:
        self._assets = tuple(assets)
        self._keys = [json.dumps([asset]) for asset in assets]
        self._types = list(types)
        self._engine = postgres.connect(
            "lens-pipeline-changes",
            dagster_url,
            isolation_level="REPEATABLE READ",
            max_overflow=4,
            connect_seconds=5,
        )
        self._ended: set[int] = set()
        self._latest_ends: deque[tuple[float, int]] = deque()
        # Runs whose end is not in `runs` yet.
        self._unsettled: dict[str, float] = {}

    def close(self) -> None:
        self._engine.dispose()

    def latest(self) -> Position:
        with self._engine.connect() as connection:
            rows = connection.execute(LATEST, {"assets": self._keys, "types": self._types})
            assets = {row.asset: row.id for row in rows}
            ends = connection.execute(LATEST_END, {"ends": ENDS}).scalar()
        return Position(tuple(assets[key] for key in self._keys), ends or 0)

    def before(self, moment: dt.datetime) -> Position:
        """The place of what happened from `moment` on."""
        with self._engine.connect() as connection:
            last = last_before(connection, moment)
        return Position((last,) * len(self._assets), last)

    def read(self, after: Position, limit: int) -> Changes:
        """Up to `limit` new events of each asset and kind."""
        with self._engine.connect() as connection:
            events, assets, more = self._events(connection, after, limit)
            query = {"ends": ENDS, "after": after.ends, "limit": 20 * limit}
            ends = connection.execute(NEW_ENDS, query).all()
            now = time.monotonic()
            self._unsettled |= {row.run_id: now for row in ends if row.id not in self._ended}
            waiting, touched = self._settled(connection, now)
            failed = self._failed(connection, events)
        for row in events:
            if row.partition is not None:
                touched[self._asset(row.asset)].add(row.partition)
        # Last, so that a read that raises is repeated.
        self._unsettled = {run: self._unsettled[run] for run in waiting}
        self._ended = {row.id for row in ends}
        return Changes(
            Position(assets, self._trailing(after, ends, now)),
            touched,
            # Those without a run are adopted files.
            [row.id for row in events if row.type == _MATERIALIZED and row.run_id],
            failed,
            more,
        )

    def since(self, after: Position, limit: int) -> Changes:
        """As `read`, but leaves the state of this log alone."""
        with self._engine.connect() as connection:
            events, assets, more = self._events(connection, after, limit)
            query = {"ends": ENDS, "after": after.ends, "limit": limit + 1}
            ends = connection.execute(NEW_ENDS, query).all()
            touched = self._planned(connection, {row.run_id for row in ends})
        for row in events:
            if row.partition is not None:
                touched[self._asset(row.asset)].add(row.partition)
        return Changes(Position(assets, after.ends), touched, more=more or len(ends) > limit)

    def progress(self) -> dict[str, ReportedProgress]:
        """The progress of runs under way, by run id."""
        values = {"statuses": list(IN_FLIGHT), "keys": list(PROGRESS_TAGS)}
        with self._engine.connect() as connection:
            rows = connection.execute(_PROGRESS, values)
            return {row.run_id: ReportedProgress.of(row.tags) for row in rows}

    def planned(self, run_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
        """The first asset of each run, in the order of the registry, and its partition."""
        with self._engine.connect() as connection:
            values = {"runs": list(run_ids), "assets": self._keys}
            rows = connection.execute(_PLANNED, values).all()
        last_first = sorted(rows, key=lambda row: self._keys.index(row.asset), reverse=True)
        return {row.run_id: (self._asset(row.asset), row.partition) for row in last_first}

    def _events(
        self, connection: sa.Connection, after: Position, limit: int
    ) -> tuple[list[sa.Row], tuple[int, ...], bool]:
        """New events, the last id of each asset, and whether there are more."""
        query = {"assets": self._keys, "after": list(after.assets), "types": self._types}
        rows = connection.execute(NEW_EVENTS, {**query, "limit": limit}).all()
        lists: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row in rows:
            lists[row.asset, row.type].append(row.id)
        # A full list may continue: later events, also of a row's other assets, do not count yet.
        bounds = [ids[-1] for ids in lists.values() if len(ids) == limit]
        events = [row for row in rows if row.id <= min(bounds, default=row.id)]
        last: dict[str, int] = {}
        for row in events:
            last[row.asset] = max(row.id, last.get(row.asset, 0))
        assets = tuple(
            last.get(key, before) for key, before in zip(self._keys, after.assets, strict=True)
        )
        return events, assets, bool(bounds)

    def _settled(
        self, connection: sa.Connection, now: float
    ) -> tuple[set[str], dict[str, set[str]]]:
        """Runs whose end is not in `runs` yet, and the partitions of the others."""
        if not self._unsettled:
            return set(), defaultdict(set)
        values = {"runs": list(self._unsettled), "statuses": list(IN_FLIGHT)}
        found = set(connection.execute(_NOT_ENDED, values).scalars())
        waiting = {run for run in found if now - self._unsettled[run] < UNSETTLED_SECONDS}
        return waiting, self._planned(connection, self._unsettled.keys() - waiting)

    def _planned(self, connection: sa.Connection, run_ids: Iterable[str]) -> dict[str, set[str]]:
        values = {"runs": list(run_ids), "assets": self._keys}
        touched: dict[str, set[str]] = defaultdict(set)
        if values["runs"]:
            for row in connection.execute(_PLANNED, values):
                touched[self._asset(row.asset)].add(row.partition)
        return touched

    def _failed(self, connection: sa.Connection, events: Iterable[sa.Row]) -> list[int]:
        observed = [row.id for row in events if row.type == _OBSERVED]
        if not observed:
            return []
        values = {"ids": observed, "key": OUTCOME_TAG, "value": ObservationKind.FAILED.value}
        return list(connection.execute(_TAGGED, values).scalars())

    def _trailing(self, after: Position, ends: Sequence[sa.Row], now: float) -> int:
        """The id of an end up to which all ends are visible by now."""
        if ends:
            self._latest_ends.append((now, ends[-1].id))
        trailing = after.ends
        while self._latest_ends and now - self._latest_ends[0][0] >= _END_SECONDS:
            trailing = max(trailing, self._latest_ends.popleft()[1])
        return trailing

    def _asset(self, key: str) -> str:
        return self._assets[self._keys.index(key)]


def last_before(connection: sa.Connection, moment: dt.datetime) -> int:
    """The id of the last event before `moment`: times have no index, but ids grow with them."""
    naive_utc = moment.astimezone(dt.UTC).replace(tzinfo=None)
    low, high = 0, connection.execute(_LAST_EVENT).scalar_one()
    while low < high:
        middle = (low + high + 1) // 2
        at = connection.execute(_TIME_FROM, {"id": middle}).scalar()
        low, high = (middle, high) if at is not None and at < naive_utc else (low, middle - 1)
    return low


_LAST_EVENT = sa.text("SELECT coalesce(max(id), 0) FROM event_logs")
_TIME_FROM = sa.text('SELECT "timestamp" FROM event_logs WHERE id >= :id ORDER BY id LIMIT 1')

# Rows are compared, and all columns are in the order: else the planner follows the primary key
# through the log of an asset without events.
NEW_EVENTS = sa.text("""
    SELECT e.id, a.asset, t.type, e.partition, e.run_id
      FROM unnest(CAST(:assets AS text[]), CAST(:after AS bigint[])) AS a(asset, after)
     CROSS JOIN unnest(CAST(:types AS text[])) AS t(type)
     CROSS JOIN LATERAL (
       SELECT id, partition, run_id FROM event_logs
        WHERE asset_key IS NOT NULL
          AND (asset_key, dagster_event_type, id) > (a.asset, t.type, a.after)
          AND (asset_key, dagster_event_type, id) <= (a.asset, t.type, 9223372036854775807)
        ORDER BY asset_key, dagster_event_type, id LIMIT :limit) e
     ORDER BY e.id
    """)
LATEST = sa.text("""
    SELECT a.asset, coalesce(max(e.id), 0) AS id
      FROM unnest(CAST(:assets AS text[])) AS a(asset)
     CROSS JOIN unnest(CAST(:types AS text[])) AS t(type)
      LEFT JOIN LATERAL (
       SELECT id FROM event_logs
        WHERE asset_key IS NOT NULL
          AND (asset_key, dagster_event_type, id) > (a.asset, t.type, 0)
          AND (asset_key, dagster_event_type, id) <= (a.asset, t.type, 9223372036854775807)
        ORDER BY asset_key DESC, dagster_event_type DESC, id DESC LIMIT 1) e ON true
     GROUP BY a.asset
    """)
NEW_ENDS = sa.text("""
    SELECT e.id, e.run_id FROM unnest(CAST(:ends AS text[])) AS t(type)
     CROSS JOIN LATERAL (
       SELECT id, run_id FROM event_logs
        WHERE (dagster_event_type, id) > (t.type, :after)
          AND (dagster_event_type, id) <= (t.type, 9223372036854775807)
        ORDER BY dagster_event_type, id LIMIT :limit) e
     ORDER BY e.id LIMIT :limit
    """)
LATEST_END = sa.text("""
    SELECT max(e.id) FROM unnest(CAST(:ends AS text[])) AS t(type)
     CROSS JOIN LATERAL (
       SELECT id FROM event_logs
        WHERE (dagster_event_type, id) > (t.type, 0)
          AND (dagster_event_type, id) <= (t.type, 9223372036854775807)
        ORDER BY dagster_event_type DESC, id DESC LIMIT 1) e
    """)
_NOT_ENDED = sa.text(
    "SELECT run_id FROM runs WHERE run_id = ANY(:runs) AND status = ANY(:statuses)"
)
_PLANNED = sa.text("""
    SELECT run_id, asset_key AS asset, partition FROM event_logs
     WHERE run_id = ANY(:runs) AND dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
       AND asset_key = ANY(:assets) AND partition IS NOT NULL ORDER BY id DESC
    """)
_PROGRESS = sa.text("""
    SELECT r.run_id, jsonb_object_agg(t.key, t.value) AS tags FROM runs r
      JOIN run_tags t ON t.run_id = r.run_id AND t.key = ANY(:keys)
     WHERE r.status = ANY(:statuses) GROUP BY r.run_id
    """)
_TAGGED = sa.text("""
    SELECT event_id FROM asset_event_tags
     WHERE event_id = ANY(:ids) AND key = :key AND value = :value ORDER BY event_id
    """)
