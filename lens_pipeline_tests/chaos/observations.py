"""What is found when all is over: in the store, in the event log, in the tables of locks."""

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from lens_pipeline.core.locks import alerts_lock, daemon_lock, projection_lock
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.status import assess, describe, usable
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline_tests.chaos.deployment import Deployment
from lens_pipeline_tests.chaos.invariants import Record, Standing
from lens_pipeline_tests.chaos.workload import MADE_FROM

_UNFINISHED = (
    "SELECT run_id, status FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)
_UNFINISHED_BACKFILLS = (
    "SELECT key, status FROM bulk_actions WHERE status IN ('REQUESTED', 'CANCELING', 'FAILING')"
)
_BACKFILLS = "SELECT status FROM bulk_actions"
_MADE = "SELECT id, partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
# One number each, unlike the offers of slots.
_LOCKS = """
    SELECT CAST(classid AS bigint) AS high, CAST(objid AS bigint) AS low
      FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
"""
_BROKEN_OFF = frozenset({"FAILURE", "CANCELED"})


def standings(deployment: Deployment) -> list[Standing]:
    """Of every output of every finished row."""
    return [
        Standing(s.asset, s.id, s.state.value, s.error_class)
        for s in _statuses(deployment.stack.pipeline)
    ]


def reasons(deployment: Deployment) -> dict[tuple[str, str], str]:
    """In words, why outputs are not ready, by asset and row."""
    pipeline = deployment.stack.pipeline
    return {
        (s.asset, s.id): s.error or s.waits_for or ""
        for s in describe(pipeline, list(_statuses(pipeline)))
        if s.state is not State.READY
    }


def _statuses(pipeline: Pipeline) -> Iterator[DerivativeStatus]:
    """The status of every output of every finished row."""
    for derivatives in MADE_FROM.values():
        for derivative in derivatives:
            for page in pipeline.catalog.all_finished(derivative.kind):
                yield from assess(pipeline, derivative, usable(page))


def failed_ids(deployment: Deployment, seconds: float) -> set[str]:
    """Rows of which something has failed and is due in `seconds` or later."""
    now = dt.datetime.now(dt.UTC)
    then = now + dt.timedelta(seconds=seconds)
    return {
        s.id
        for s in _statuses(deployment.stack.pipeline)
        if s.state is State.FAILED and max(s.retry_at or now, now) >= then
    }


def unfinished_runs(deployment: Deployment) -> list[str]:
    return [f"run {row.run_id} is {row.status}" for row in deployment.stack.dagster(_UNFINISHED)]


def unfinished_backfills(deployment: Deployment) -> list[str]:
    found = deployment.stack.dagster(_UNFINISHED_BACKFILLS)
    return [f"backfill {row.key} is {row.status}" for row in found]


def held_locks(deployment: Deployment) -> list[str]:
    """Of runs and partitions: those that a process holds as long as it lives are none."""
    for_life = {lock % 2**64 for lock in (daemon_lock(), alerts_lock(), projection_lock())}
    held = {row.high << 32 | row.low for row in deployment.stack.dagster(_LOCKS)}
    return [f"lock {lock} is held" for lock in sorted(held - for_life)]


@dataclasses.dataclass
class Made:
    """Everything that was ever recorded."""

    records: dict[tuple[str, str], Record]
    times: Counter[tuple[str, str, str]]
    broken_off: Counter[tuple[str, str]]
    latencies: list[float]
    backfills: Counter[str]
    """How many backfills of the UI ended how."""


def made(deployment: Deployment) -> Made:
    pipeline = deployment.stack.pipeline
    backfills = Counter(row.status for row in deployment.stack.dagster(_BACKFILLS))
    found = Made({}, Counter(), Counter(), [], backfills)
    query = _MADE + " AND asset_key = :asset ORDER BY id"
    engine = sa.create_engine(deployment.site.dagster_url, poolclass=sa.NullPool)
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


def keys(deployment: Deployment) -> list[str]:
    """Of everything in the store, read past the proxy."""
    pages = deployment.store.client().get_paginator("list_objects_v2")
    return [
        entry["Key"]
        for page in pages.paginate(Bucket=deployment.store.bucket)
        for entry in page.get("Contents", [])
    ]


def objects(deployment: Deployment) -> dict[str, bytes]:
    client, bucket = deployment.store.client(), deployment.store.bucket
    return {
        key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys(deployment)
    }


def unfinished_uploads(deployment: Deployment) -> list[str]:
    answer = deployment.store.client().list_multipart_uploads(Bucket=deployment.store.bucket)
    return [f"{upload['Key']} is half uploaded" for upload in answer.get("Uploads", [])]
