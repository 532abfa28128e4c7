"""Plans the runs that cover partitions, in ranges of a partition set."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import dagster as dg

from lens_pipeline.catalog.rows import ScaledVideo
from lens_pipeline.core.logs import request_id
from lens_pipeline.core.telemetry import carrier
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.event_log.tags import (
    FILES_TAG,
    FORCE_TAG,
    ORIGIN_TAG,
    PRIORITY_TAG,
    REQUEST_TAG,
    REVISIONS_TAG,
    USER_TAG,
)

# New rows first, then retries, gaps, checks of shots, and what is outdated.
NEW_PRIORITY, RETRY_PRIORITY, BACKFILL_PRIORITY, CHECK_PRIORITY = 0, -1, -2, -3
OUTDATED_PRIORITY = -4

# Dagster's index of tags takes rows of up to 2,704 bytes; about 50 files with UUIDs are so long.
_MOST_TAG_BYTES = 2500

_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighbours in their set."""

    keys: tuple[str, ...]

    def tags(self) -> dict[str, str]:
        return {
            _RANGE_START: self.keys[0],
            _RANGE_END: self.keys[-1],
            FILES_TAG: str(len(self.keys)),
        }


def batches(keys: Sequence[str], order: Sequence[str], size: int) -> list[Batch]:
    """Split `keys` into as few runs as `order`, the whole partition set, allows.

    Only neighbours can share a run. Keys that have left the set meanwhile are left out.
    """
    wanted = set(keys)
    placed = [(place, key) for place, key in enumerate(order) if key in wanted]
    return [
        Batch(tuple(run[start : start + size]))
        for run in _neighbours(placed)
        for start in range(0, len(run), size)
    ]


def _neighbours(placed: list[tuple[int, str]]) -> Iterator[list[str]]:
    run: list[str] = []
    for (place, key), (next_place, _) in pairwise([*placed, (-1, "")]):
        run.append(key)
        if next_place != place + 1:
            yield run
            run = []


def run_request(
    derivative: Derivative,
    batch: Batch,
    statuses: Mapping[str, DerivativeStatus],
    origin: str,
    priority: int,
) -> dg.RunRequest:
    """A second request starts no run unless a revision changed or something was made or failed."""
    wanted = [statuses[key] for key in batch.keys]
    identity = "\n".join(f"{s.id} {s.revision} {s.request_key}" for s in wanted)
    return dg.RunRequest(
        run_key=f"{derivative.asset}:{hashlib.sha256(identity.encode()).hexdigest()[:24]}",
        job_name=derivative.job,
        asset_selection=[dg.AssetKey(asset) for asset in derivative.run_assets]
        if derivative.run_assets
        else None,
        tags={
            **batch.tags(),
            **_owner_tag({status.owner for status in wanted}),
            ORIGIN_TAG: origin,
            PRIORITY_TAG: str(priority + derivative.priority),
            **_revisions_tag(wanted),
            **carrier(),
        },
    )


def _revisions_tag(wanted: Sequence[DerivativeStatus]) -> dict[str, str]:
    """Empty if there are too many."""
    revisions = " ".join(f"{status.id}={status.revision}" for status in wanted)
    return {REVISIONS_TAG: revisions} if len(revisions) <= _MOST_TAG_BYTES else {}


def of_runs(
    pipeline: Pipeline, derivative: Derivative, keys: Sequence[str]
) -> Iterable[Sequence[str]]:
    """Keys that may share runs: of renditions those of one master, as they follow in it."""
    if derivative.run_size is None:
        return [keys]
    rows = pipeline.catalog.finished(derivative.kind, keys)
    places = dict.fromkeys(keys, ("", 0.0))
    places |= {key: row.place for key, row in rows.items() if isinstance(row, ScaledVideo)}
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(places[key][0], []).append(key)
    return [sorted(group, key=places.__getitem__) for group in groups.values()]


def added_batches(
    instance: dg.DagsterInstance, derivative: Derivative, keys: Sequence[str], size: int
) -> list[Batch]:
    """Add `keys` to the partition set, whose order is known only after that, and split them."""
    instance.add_dynamic_partitions(derivative.partition_set, list(keys))
    # For one key the set, which may be large, is not read.
    order = instance.get_dynamic_partitions(derivative.partition_set) if len(keys) > 1 else keys
    return batches(keys, order, size)


def plan_runs(
    instance: dg.DagsterInstance,
    derivative: Derivative,
    keys: Sequence[str],
    batch_size: int,
    origin: str,
    *,
    force: bool = False,
    priority: int = BACKFILL_PRIORITY,
    owner: str = "",
) -> list[dict[str, str]]:
    """Add `keys` to the partition set; returns each run's tags. `owner`: a user or project."""
    planned = added_batches(instance, derivative, keys, batch_size)
    rank = str(priority + derivative.priority)
    tags = {ORIGIN_TAG: origin, PRIORITY_TAG: rank, **_owner_tag({owner}), **carrier()}
    if force:
        tags[FORCE_TAG] = "true"
    if asked := request_id.get():
        tags[REQUEST_TAG] = asked
    return [{**tags, **batch.tags()} for batch in planned]


def _owner_tag(owners: set[str]) -> dict[str, str]:
    """Empty for several owners."""
    (owner,) = owners if len(owners) == 1 else ("",)
    return {USER_TAG: owner} if owner else {}
