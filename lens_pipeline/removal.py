"""Removing what belongs to rows that the application has deleted."""

import datetime as dt
from dataclasses import dataclass, field

import dagster as dg

from lens_pipeline.derivatives import Derivative
from lens_pipeline.pipeline import Pipeline
from lens_pipeline.status import OUTCOME_TAG, Outcome

# Partitions looked at a tick.
_PAGE = 500
# More than this share of a page missing looks like a lost table, not like deletions by people...
_MOST_SHARE = 0.2
# ... unless it is only a handful.
_FEW = 20


@dataclass(frozen=True, slots=True)
class Walked:
    """One page of the walk over everything that was ever made."""

    cursor: str
    note: str
    removed: list[str] = field(default_factory=list)


def remove_vanished(
    pipeline: Pipeline, instance: dg.DagsterInstance, derivative: Derivative, after: str
) -> Walked:
    """Look at the next page of partitions; delete the objects of those whose row is gone.

    The walk goes by the event log rather than the partition set, so that retired partitions are
    seen too. A partition with a run in flight is left for the next round. A catalog that cannot
    be read raises: it must never look like an empty table.
    """
    keys = pipeline.log.materialized_keys(derivative.asset, after, _PAGE)
    cursor = keys[-1] if len(keys) == _PAGE else ""
    gone = sorted(set(keys) - pipeline.catalog.existing(derivative.kind, keys))
    recorded = pipeline.log.histories(derivative.asset, gone)
    present = [key for key in gone if not recorded[key].is_removed]
    if len(present) > _FEW and len(present) > _MOST_SHARE * len(keys):
        return Walked(
            after,
            f"{len(present)} of {len(keys)} rows are missing: too many at once, nothing is deleted;"
            " if this is meant, delete the objects by hand and the partitions in the UI",
        )
    idle = [key for key in present if not recorded[key].is_in_flight]
    for key in idle:
        _remove(pipeline, instance, derivative, key)
    return Walked(cursor, f"{len(keys)} looked at, {len(idle)} removed", idle)


def _remove(
    pipeline: Pipeline, instance: dg.DagsterInstance, derivative: Derivative, key: str
) -> None:
    materialized = pipeline.log.histories(derivative.asset, [key])[key].materialized
    if materialized is None:
        return
    metadata = pipeline.log.details([materialized.event_id])[materialized.event_id]
    path = metadata.get("path")
    if isinstance(path, str):
        pipeline.store.delete(path)
    instance.report_runless_asset_event(
        dg.AssetObservation(
            asset_key=derivative.asset,
            partition=key,
            metadata={"removed": str(path), "reason": "the application's row is gone"},
            tags={OUTCOME_TAG: Outcome.REMOVED.value},
        )
    )


def retire(pipeline: Pipeline, instance: dg.DagsterInstance, derivative: Derivative) -> int:
    """Take finished keys that are old enough out of the partition set; files and history stay.

    Returns how many. A key comes back by itself when its row changes.
    """
    keys = derivative.partitions.get_partition_keys(dynamic_partitions_store=instance)
    before = pipeline.catalog.now() - dt.timedelta(days=pipeline.settings.retain_partitions_days)
    old = pipeline.log.materialized_before(derivative.asset, keys, before)
    name = derivative.partitions.name
    for key in sorted(old):
        instance.delete_dynamic_partition(str(name), key)
    return len(old)
