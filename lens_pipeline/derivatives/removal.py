"""Deletes the objects of rows that are gone, and takes old keys out of the partition sets."""

import datetime as dt
import logging
from dataclasses import dataclass, field

import dagster as dg

from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.errors import DerivativeError
from lens_pipeline.event_log.history import History, ObservationKind
from lens_pipeline.event_log.tags import OUTCOME_TAG

logger = logging.getLogger(__name__)

# Partitions a tick.
_PAGE = 500
# More missing rows than this share of a page look like a lost table...
_MOST_SHARE = 0.2
# ... unless they are few, and not the whole page.
_FEW = 20


@dataclass(frozen=True, slots=True)
class RemovalPage:
    cursor: str
    note: str
    # To take out of the partition set.
    removed: list[str] = field(default_factory=list)
    refused: bool = False
    # Outputs without a row that stay: in work, or the store failed.
    left: int = 0


def remove_vanished(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    derivative: Derivative,
    after: str,
    *,
    however_many: bool = False,
    page: int = _PAGE,
) -> RemovalPage:
    """Delete the objects of the next page of partitions whose row is gone.

    Pages are of the event log, because the partition set lacks retired keys. Partitions in flight
    are left for the next round. Raises CatalogError if rows cannot be read: no table looks empty.
    """
    keys = pipeline.log.materialized_keys(derivative.asset, after, page)
    cursor = keys[-1] if len(keys) == page else ""
    existing = pipeline.catalog.existing(derivative.kind, keys)
    gone = sorted(set(keys) - existing)
    recorded = pipeline.log.histories(derivative.asset, gone)
    present = [key for key in gone if not recorded[key].is_removed]
    if not however_many and _too_many(len(present), len(existing)):
        return RemovalPage(
            cursor,
            f"{len(present)} of {len(present) + len(existing)} rows are missing: too many at once,"
            " nothing is deleted; if this is meant, run `lens remove-missing`",
            refused=True,
        )
    idle = [key for key in gone if not recorded[key].is_in_flight]
    kept = [
        key
        for key in idle
        if key in present and not _remove(pipeline, instance, derivative, key, recorded[key])
    ]
    in_set = set(instance.get_dynamic_partitions(derivative.partition_set))
    removed = [key for key in idle if key not in kept]
    note = f"{len(keys)} looked at, {len(set(removed) & set(present))} removed"
    if kept:
        note += f", {len(kept)} could not be deleted from the store: {', '.join(kept[:5])}"
    left = len(kept) + len(present) - len(set(present) & set(idle))
    return RemovalPage(cursor, note, [key for key in removed if key in in_set], left=left)


def _too_many(missing: int, existing: int) -> bool:
    return missing > (max(_FEW, _MOST_SHARE * (missing + existing)) if existing else 1)


def _remove(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    derivative: Derivative,
    key: str,
    history: History,
) -> bool:
    """Delete the object and record that; False if the store fails."""
    if history.materialized is None:
        return True
    event_id = history.materialized.event_id
    path = pipeline.log.details([event_id])[event_id].get("path")
    if isinstance(path, str):
        try:
            pipeline.store.delete(path)
        except DerivativeError as error:
            logger.warning("%s %s: cannot delete %s: %s", derivative.asset, key, path, error)
            return False
    removal = dg.AssetObservation(
        asset_key=derivative.asset,
        partition=key,
        metadata={"removed": str(path), "reason": "the application's row is gone"},
        tags={OUTCOME_TAG: ObservationKind.REMOVED.value},
    )
    instance.report_runless_asset_event(removal)
    return True


def retire(pipeline: Pipeline, instance: dg.DagsterInstance, derivative: Derivative) -> int:
    """Take old finished keys out of the partition set; a key comes back when its row changes.

    Returns their number.
    """
    keys = instance.get_dynamic_partitions(derivative.partition_set)
    before = pipeline.catalog.now() - dt.timedelta(days=pipeline.settings.retain_partitions_days)
    old = pipeline.log.materialized_before(derivative.asset, keys, before)
    for key in sorted(old):
        instance.delete_dynamic_partition(derivative.partition_set, key)
    return len(old)
