"""What waits in Dagster's run queue and what is under way, read without loading the runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.core.locks import SLOTS
from lens_pipeline.event_log.history import IN_FLIGHT
from lens_pipeline.event_log.tags import PRIORITY_TAG, USER_TAG


@dataclass(frozen=True, slots=True)
class Waiting:
    run_id: str
    queue: str
    priority: int
    # The user or project; "" for several, or none.
    owner: str


@dataclass(frozen=True, slots=True)
class Load:
    waiting: list[Waiting]
    """In order of arrival."""
    under_way: dict[tuple[str, str], int]
    """Runs by queue and owner."""


class RunQueueLog:
    """Thread-safe. Does not load runs, which takes Dagster 0.5 ms each."""

    def __init__(self, dagster_url: str) -> None:
        self._engine = postgres.connect(
            "lens-pipeline-queue", dagster_url, isolation_level="AUTOCOMMIT"
        )

    def close(self) -> None:
        self._engine.dispose()

    def load(self, queue_tag: str, default_queue: str, most: int) -> Load:
        """Up to `most` waiting runs of each owner, queue and priority; all runs under way."""
        values = _tags(queue_tag, default_queue)
        with self._engine.connect() as connection:
            waiting = connection.execute(_WAITING, {**values, "most": most}).all()
            under_way = connection.execute(_UNDER_WAY, values).all() if waiting else []
        return Load(
            [Waiting(row.run_id, row.queue, row.priority, row.owner) for row in waiting],
            {(row.queue, row.owner): row.runs for row in under_way},
        )

    def places(self, run_ids: Sequence[str], queue_tag: str, default_queue: str) -> dict[str, int]:
        """The place of each waiting run in its queue; 1: it is next."""
        values = {**_tags(queue_tag, default_queue), "runs": list(run_ids)}
        with self._engine.connect() as connection:
            return {row.run_id: row.place for row in connection.execute(_PLACES, values)}

    def depth(self, job: str, origin_tag: str, origin: str) -> int:
        values = {"job": job, "key": origin_tag, "origin": origin}
        with self._engine.connect() as connection:
            return connection.execute(_DEPTH, values).scalar_one()

    def unfinished(self, job: str) -> Sequence[str]:
        """Ids of the runs of `job` that have not ended, in their order."""
        values = {"job": job, "statuses": list(IN_FLIGHT)}
        with self._engine.connect() as connection:
            return connection.execute(_UNFINISHED, values).scalars().all()

    def slots(self) -> dict[int, int]:
        """Runs that the living workers take at once, by `locks.queue_id`."""
        with self._engine.connect() as connection:
            return {row.queue: int(row.slots) for row in connection.execute(SLOTS)}


def _tags(queue_tag: str, default_queue: str) -> dict[str, Any]:
    return {
        "tags": [queue_tag, PRIORITY_TAG, USER_TAG],
        "queue": queue_tag,
        "priority": PRIORITY_TAG,
        "owner": USER_TAG,
        "default": default_queue,
    }


# A priority that is no number counts as 0, as in Dagster.
_TAGGED = """
  SELECT r.id, r.run_id,
         coalesce(max(t.value) FILTER (WHERE t.key = :queue), :default) AS queue,
         coalesce(CAST(substring(max(t.value) FILTER (WHERE t.key = :priority)
                                 FROM '^-?[0-9]{1,9}$') AS int), 0) AS priority,
         coalesce(max(t.value) FILTER (WHERE t.key = :owner), '') AS owner
    FROM runs r LEFT JOIN run_tags t ON t.run_id = r.run_id AND t.key = ANY(:tags)
"""
_WAITING = sa.text(f"""
    WITH queued AS ({_TAGGED} WHERE r.status = 'QUEUED' GROUP BY r.id, r.run_id),
    counted AS (
      SELECT *, row_number() OVER (PARTITION BY queue, priority, owner ORDER BY id) AS turn
        FROM queued)
    SELECT run_id, queue, priority, owner FROM counted WHERE turn <= :most ORDER BY id
    """)  # noqa: S608 - constants
_UNDER_WAY = sa.text(f"""
    WITH busy AS ({_TAGGED} WHERE r.status IN ('STARTING', 'STARTED', 'CANCELING')
                  GROUP BY r.id, r.run_id)
    SELECT queue, owner, count(*) AS runs FROM busy GROUP BY queue, owner
    """)  # noqa: S608 - constants
# In the order of `derivatives.round_robin`.
_PLACES = sa.text(f"""
    WITH queued AS ({_TAGGED} WHERE r.status = 'QUEUED' GROUP BY r.id, r.run_id),
    busy AS ({_TAGGED} WHERE r.status IN ('STARTING', 'STARTED', 'CANCELING')
             GROUP BY r.id, r.run_id),
    taken AS (SELECT queue, owner, count(*) AS runs FROM busy GROUP BY queue, owner),
    turns AS (
      SELECT q.*, coalesce(t.runs, 0)
             + row_number() OVER (PARTITION BY q.queue, q.priority, q.owner ORDER BY q.id) AS turn
        FROM queued q LEFT JOIN taken t ON t.queue = q.queue AND t.owner = q.owner),
    placed AS (
      SELECT run_id, row_number() OVER (PARTITION BY queue ORDER BY priority DESC, turn, id)
             AS place FROM turns)
    SELECT run_id, place FROM placed WHERE run_id = ANY(:runs)
    """)  # noqa: S608 - constants
_UNFINISHED = sa.text("""
    SELECT run_id FROM runs WHERE pipeline_name = :job AND status = ANY(:statuses) ORDER BY id
    """)
_DEPTH = sa.text("""
    SELECT count(*) FROM runs r WHERE r.status = 'QUEUED' AND r.pipeline_name = :job
       AND EXISTS (SELECT FROM run_tags t
                    WHERE t.run_id = r.run_id AND t.key = :key AND t.value = :origin)
    """)
