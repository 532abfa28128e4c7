"""What is found when all is over: in the store, in the event log, in the tables of locks."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from lens_pipeline.core.locks import alerts_lock, daemon_lock, projection_lock
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.status import assess, describe, usable
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline_tests.chaos.arrivals import MADE_FROM
from lens_pipeline_tests.chaos.invariants import Record, Standing
from lens_pipeline_tests.chaos.world import World

_UNFINISHED = (
    "SELECT run_id, status FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)
_MADE = "SELECT id, partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
# One number each, unlike the offers of slots.
_LOCKS = """
    SELECT CAST(classid AS bigint) AS high, CAST(objid AS bigint) AS low
      FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
"""
_BROKEN_OFF = frozenset({"FAILURE", "CANCELED"})


def standings(world: World) -> list[Standing]:
    """Of every output of every finished row."""
    return [
        Standing(s.asset, s.id, s.state.value, s.error_class)
        for s in _statuses(world.stack.pipeline)
    ]


def reasons(world: World) -> dict[tuple[str, str], str]:
    """In words, why outputs are not ready, by asset and row."""
    pipeline = world.stack.pipeline
    return {
        (s.asset, s.id): s.error or s.waits_for or ""
        for s in describe(pipeline, list(_statuses(pipeline)))
        if s.state is not State.READY
    }


def _statuses(pipeline: Pipeline) -> Iterator[DerivativeStatus]:
    """Of every output of every finished row."""
    for derivatives in MADE_FROM.values():
        for derivative in derivatives:
            for page in pipeline.catalog.all_finished(derivative.kind):
                yield from assess(pipeline, derivative, usable(page))


def unfinished_runs(world: World) -> list[str]:
    return [f"run {row.run_id} is {row.status}" for row in world.stack.dagster(_UNFINISHED)]


def held_locks(world: World) -> list[str]:
    """Of runs and partitions: those that a process holds as long as it lives are none."""
    for_life = {lock % 2**64 for lock in (daemon_lock(), alerts_lock(), projection_lock())}
    held = {row.high << 32 | row.low for row in world.stack.dagster(_LOCKS)}
    return [f"lock {lock} is held" for lock in sorted(held - for_life)]


@dataclasses.dataclass
class Made:
    """Everything that was ever recorded."""

    records: dict[tuple[str, str], Record]
    times: Counter[tuple[str, str, str]]
    broken_off: Counter[tuple[str, str]]
    latencies: list[float]


def made(world: World) -> Made:
    pipeline = world.stack.pipeline
    found = Made({}, Counter(), Counter(), [])
    query = _MADE + " AND asset_key = :asset ORDER BY id"
    engine = sa.create_engine(world.site.dagster_url, poolclass=sa.NullPool)
    for derivatives in MADE_FROM.values():
        for asset in (derivative.asset for derivative in derivatives):
            with engine.connect() as connection:
                rows = connection.execute(sa.text(query), {"asset": f'["{asset}"]'}).all()
            details = pipeline.log.details([row.id for row in rows])
            for row in rows:
                _add(found, asset, row.partition, details[row.id])
            _count_broken(pipeline, asset, {row.partition for row in rows}, found)
    return found


def _add(found: Made, asset: str, row_id: str, metadata: dict[str, Any]) -> None:
    record = Record(
        asset,
        row_id,
        metadata["path"],
        metadata["bytes"],
        metadata["width"],
        metadata["height"],
        metadata["revision"],
        # Of a poster it is its video's.
        None if metadata["path"].endswith(".webp") else metadata.get("duration_seconds"),
    )
    found.records[asset, row_id] = record
    found.times[asset, row_id, record.revision] += 1
    if (latency := metadata.get("latency_seconds")) is not None:
        found.latencies.append(latency)


def _count_broken(pipeline: Pipeline, asset: str, rows: set[str], found: Made) -> None:
    for row_id, history in pipeline.log.histories(asset, rows).items():
        ended = sum(plan.run_status in _BROKEN_OFF for plan in history.planned)
        found.broken_off[asset, row_id] = ended


def keys(world: World) -> list[str]:
    """Of everything in the store, read past the proxy."""
    pages = world.store.client().get_paginator("list_objects_v2")
    return [
        entry["Key"]
        for page in pages.paginate(Bucket=world.store.bucket)
        for entry in page.get("Contents", [])
    ]


def objects(world: World) -> dict[str, bytes]:
    client, bucket = world.store.client(), world.store.bucket
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys(world)}


def unfinished_uploads(world: World) -> list[str]:
    answer = world.store.client().list_multipart_uploads(Bucket=world.store.bucket)
    return [f"{upload['Key']} is half uploaded" for upload in answer.get("Uploads", [])]
