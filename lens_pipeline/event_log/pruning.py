"""Deletes what is old from Dagster's tables, but nothing that a status depends on.

An event is *superseded* by a later materialization or removal of its partition; other events of
assets stay, and so do runs that count as attempts. A removal goes once it supersedes nothing, but
not while it keeps an object. Of *minor* assets, which have no status, failures go as well.
Dagster's `delete_run` deletes materializations.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable

from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.reader import db_key
from lens_pipeline.event_log.tags import KEPT_TAG, OUTCOME_TAG


@dataclass(frozen=True, slots=True)
class EndedRun:
    """`row`: its id in the table; `ended_at`: seconds since 1970."""

    row: int
    run_id: str
    ended_at: float


def ended_runs(
    connection: sa.Connection, after: int, events_before: float, runs_before: float, limit: int
) -> list[EndedRun]:
    """Runs that ended before `runs_before`, or before `events_before` with events of no asset."""
    before = {"events_before": events_before, "runs_before": runs_before}
    rows = connection.execute(_RUNS, {"after": after, "limit": limit, **before})
    return [EndedRun(row.id, row.run_id, row.ended_at) for row in rows]


def still_counted(
    connection: sa.Connection, run_ids: Sequence[str], minor: Sequence[str]
) -> set[str]:
    """Those of these ended runs that still count as attempts."""
    return set(connection.execute(_COUNTED, _of_runs(run_ids, minor)).scalars())


def superseded_of_runs(
    connection: sa.Connection, run_ids: Sequence[str], minor: Sequence[str]
) -> list[int]:
    """Ids of events that no status depends on, also of runs deleted earlier."""
    superseded = connection.execute(_OF_RUNS, _of_runs(run_ids, minor)).scalars().all()
    orphans = connection.execute(_ORPHANS_BEFORE_RUNS, {"runs": list(run_ids)}).scalars().all()
    return [*superseded, *orphans]


def _of_runs(run_ids: Sequence[str], minor: Sequence[str]) -> dict[str, list[str]]:
    return {"runs": list(run_ids), "minor": [db_key(asset) for asset in minor]}


def superseded_of_no_run(
    connection: sa.Connection, after: int, before: float, removals_before: float, limit: int
) -> tuple[list[int], int | None]:
    """The same for the next `limit` events without a run; the last id if there are more."""
    values = {"after": after, "limit": limit, "before": _naive(before)}
    values["removals_before"] = _naive(removals_before)
    rows = connection.execute(_OF_NO_RUN, values).all()
    going = [row.id for row in rows if row.is_superseded]
    old = [row.id for row in rows if row.is_old]
    going += connection.execute(_ORPHANS_BEFORE_EVENTS, {"ids": old}).scalars().all()
    return going, rows[-1].id if len(rows) == limit else None


def _naive(moment: float) -> dt.datetime:
    """Times of events are UTC without a zone."""
    return dt.datetime.fromtimestamp(moment, dt.UTC).replace(tzinfo=None)


def delete_events(connection: sa.Connection, event_ids: Sequence[int]) -> int:
    """Deletes tags too; returns the number of events."""
    if not event_ids:
        return 0
    connection.execute(_DELETE_TAGS, {"ids": list(event_ids)})
    return connection.execute(_DELETE_EVENTS, {"ids": list(event_ids)}).rowcount


def delete_runs(connection: sa.Connection, run_ids: Iterable[str]) -> int:
    """Deletes tags too; returns the number of runs."""
    return connection.execute(_DELETE_RUNS, {"runs": list(run_ids)}).rowcount


def delete_ticks(connection: sa.Connection, before: float, limit: int) -> int:
    """Keeps the last tick of each sensor and schedule: the daemon continues from it."""
    return connection.execute(_DELETE_TICKS, {"before": before, "limit": limit}).rowcount


def delete_check_results(connection: sa.Connection, before: float, limit: int) -> int:
    """Keeps the last result of each asset check."""
    return connection.execute(_DELETE_CHECK_RESULTS, {"before": before, "limit": limit}).rowcount


def delete_backfills(connection: sa.Connection, before: float, limit: int) -> int:
    """Records of ended backfills of which no run is left; their ends explain cancelled runs."""
    ids = list(connection.execute(_BACKFILLS, {"before": before, "limit": limit}).scalars())
    connection.execute(_DELETE_BACKFILL_TAGS, {"ids": ids})
    return connection.execute(_DELETE_BACKFILLS, {"ids": ids}).rowcount


_MATERIALIZATION, _OBSERVATION = "ASSET_MATERIALIZATION", "ASSET_OBSERVATION"
_PLANNED = "ASSET_MATERIALIZATION_PLANNED"
_event = SqlEventLogStorageTable.alias("e")
_later = SqlEventLogStorageTable.alias("later")
_removal = SqlEventLogStorageTable.alias("removal")
_tag = AssetEventTagsTable.alias("tag")
_earlier = SqlEventLogStorageTable.alias("earlier")
_mark = AssetEventTagsTable.alias("mark")
_run = RunsTable.alias("r")
_MINOR = sa.bindparam("minor", expanding=True)

# One index probe each, however many events a partition has.
_IS_SUPERSEDED = sa.or_(
    sa.exists().where(
        _later.c.asset_key == _event.c.asset_key,
        _later.c.dagster_event_type == _MATERIALIZATION,
        _later.c.partition == _event.c.partition,
        _later.c.id > _event.c.id,
    ),
    sa.exists().where(
        _removal.c.asset_key == _event.c.asset_key,
        _removal.c.dagster_event_type == _OBSERVATION,
        _removal.c.partition == _event.c.partition,
        _removal.c.id > _event.c.id,
        _tag.c.event_id == _removal.c.id,
        _tag.c.key == OUTCOME_TAG,
        _tag.c.value == ObservationKind.REMOVED.value,
    ),
)
_IS_REMOVAL = sa.and_(
    _event.c.dagster_event_type == _OBSERVATION,
    sa.exists().where(
        _mark.c.event_id == _event.c.id,
        _mark.c.key == OUTCOME_TAG,
        _mark.c.value == ObservationKind.REMOVED.value,
    ),
)
_SUPERSEDES_NOTHING = sa.and_(
    _IS_REMOVAL,
    ~sa.exists().where(_mark.c.event_id == _event.c.id, _mark.c.key == KEPT_TAG),
    ~sa.exists().where(
        _earlier.c.asset_key == _event.c.asset_key,
        _earlier.c.dagster_event_type.in_([_MATERIALIZATION, _OBSERVATION, _PLANNED]),
        _earlier.c.partition == _event.c.partition,
        _earlier.c.id < _event.c.id,
    ),
)
# Whether a status may depend on it.
_SPEAKS = sa.func.coalesce(
    sa.and_(
        _event.c.asset_key.is_not(None),
        sa.or_(
            _event.c.dagster_event_type == _MATERIALIZATION,
            sa.and_(_event.c.dagster_event_type == _OBSERVATION, _event.c.asset_key.not_in(_MINOR)),
            sa.and_(
                _event.c.dagster_event_type == _PLANNED,
                _event.c.partition.is_not(None),
                _event.c.asset_key.not_in(_MINOR),
            ),
        ),
    ),
    sa.false(),
)
_COUNTED = (
    sa.select(_event.c.run_id)
    .distinct()
    .join_from(_event, _run, _run.c.run_id == _event.c.run_id)
    .where(
        _event.c.run_id.in_(sa.bindparam("runs", expanding=True)),
        _run.c.status.in_(["FAILURE", "CANCELED"]),
        _event.c.dagster_event_type == _PLANNED,
        _event.c.asset_key.is_not(None),
        _event.c.asset_key.not_in(_MINOR),
        _event.c.partition.is_not(None),
        ~_IS_SUPERSEDED,
    )
)
_OF_RUNS = sa.select(_event.c.id).where(
    _event.c.run_id.in_(sa.bindparam("runs", expanding=True)),
    sa.or_(~_SPEAKS, sa.and_(_event.c.partition.is_not(None), _IS_SUPERSEDED)),
)
_OF_NO_RUN = (
    sa.select(
        _event.c.id,
        sa.and_(
            _event.c.partition.is_not(None),
            sa.or_(
                sa.and_(
                    _event.c.timestamp < sa.bindparam("before", type_=sa.TIMESTAMP), _IS_SUPERSEDED
                ),
                sa.and_(
                    _event.c.timestamp < sa.bindparam("removals_before", type_=sa.TIMESTAMP),
                    _SUPERSEDES_NOTHING,
                ),
            ),
        ).label("is_superseded"),
        sa.and_(
            _event.c.timestamp < sa.bindparam("before", type_=sa.TIMESTAMP),
            sa.or_(_event.c.dagster_event_type == _MATERIALIZATION, _IS_REMOVAL),
        ).label("is_old"),
    )
    .where(_event.c.run_id == RUNLESS_RUN_ID, _event.c.id > sa.bindparam("after"))
    .order_by(_event.c.id)
    .limit(sa.bindparam("limit"))
)
# A run that is deleted leaves the materializations that were the latest then: they go with what
# supersedes them later.
_ORPHANS = """
    SELECT DISTINCT e.id FROM event_logs s JOIN event_logs e
        ON e.asset_key = s.asset_key AND e.partition = s.partition AND e.id < s.id
       AND e.dagster_event_type IN
           ('ASSET_MATERIALIZATION', 'ASSET_MATERIALIZATION_PLANNED', 'ASSET_OBSERVATION')
     WHERE {condition} AND e.run_id <> ''
       AND NOT EXISTS (SELECT FROM runs r WHERE r.run_id = e.run_id)
"""
_ORPHANS_BEFORE_EVENTS = sa.text(_ORPHANS.format(condition="s.id = ANY(:ids)"))
_ORPHANS_BEFORE_RUNS = sa.text(
    _ORPHANS.format(
        condition="s.run_id = ANY(:runs) AND s.dagster_event_type = 'ASSET_MATERIALIZATION'"
    )
)
# A run cancelled before it began may have no end.
_RUNS = sa.text("""
    SELECT r.id, r.run_id, t.ended_at FROM runs r CROSS JOIN LATERAL (
        SELECT coalesce(r.end_time, extract(epoch FROM r.update_timestamp)::float) AS ended_at) t
     WHERE r.id > :after AND r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
       AND t.ended_at < :events_before
       AND (t.ended_at < :runs_before OR EXISTS (
         SELECT FROM event_logs e WHERE e.run_id = r.run_id AND e.asset_key IS NULL))
     ORDER BY r.id LIMIT :limit
    """)
_DELETE_TAGS = sa.text("DELETE FROM asset_event_tags WHERE event_id = ANY(:ids)")
_DELETE_EVENTS = sa.text("DELETE FROM event_logs WHERE id = ANY(:ids)")
_DELETE_RUNS = sa.text(
    "DELETE FROM runs WHERE run_id = ANY(:runs) AND status IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)
_DELETE_TICKS = sa.text("""
    DELETE FROM job_ticks WHERE id = ANY(ARRAY(
      SELECT t.id FROM job_ticks t
       WHERE t."timestamp" < to_timestamp(:before) AT TIME ZONE 'UTC'
         AND EXISTS (
           SELECT FROM job_ticks n
            WHERE n.selector_id = t.selector_id AND n."timestamp" > t."timestamp")
       ORDER BY t.id LIMIT :limit))
    """)
_DELETE_CHECK_RESULTS = sa.text("""
    DELETE FROM asset_check_executions WHERE id = ANY(ARRAY(
      SELECT c.id FROM asset_check_executions c
       WHERE c.create_timestamp < to_timestamp(:before) AT TIME ZONE 'UTC'
         AND EXISTS (
           SELECT FROM asset_check_executions n
            WHERE n.asset_key = c.asset_key AND n.check_name = c.check_name AND n.id > c.id)
       ORDER BY c.id LIMIT :limit))
    """)
_BACKFILLS = sa.text("""
    SELECT b.id FROM bulk_actions b
     WHERE b.status IN ('COMPLETED', 'COMPLETED_SUCCESS', 'COMPLETED_FAILED', 'FAILED', 'CANCELED')
       AND b."timestamp" < to_timestamp(:before) AT TIME ZONE 'UTC'
       AND NOT EXISTS (SELECT FROM runs r WHERE r.backfill_id = b.key)
     ORDER BY b.id LIMIT :limit
    """)
_DELETE_BACKFILL_TAGS = sa.text("""
    DELETE FROM backfill_tags
     WHERE backfill_id IN (SELECT key FROM bulk_actions WHERE id = ANY(:ids))
    """)
_DELETE_BACKFILLS = sa.text("DELETE FROM bulk_actions WHERE id = ANY(:ids)")
