"""Records derivatives that an older system left in the store, without making them again."""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from lens_pipeline.catalog.rows import UnusableRow
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import Assessed, assessed_pages
from lens_pipeline.derivatives.store_audit import stored_objects
from lens_pipeline.engine.events import record_materializations
from lens_pipeline.event_log.history import State
from lens_pipeline.storage.object_store import ObjectInfo


@dataclass(slots=True)
class Adoption:
    """How many rows without a record were found, and how many of them have their object."""

    found: int = 0
    adopted: int = 0
    missing: int = 0


def record_stored(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    *,
    dry_run: bool,
    progress: Callable[[Adoption], None],
) -> Adoption:
    """Record every finished row whose derivative lies at its key but not in the event log.

    The object is taken to match the row as it is now. One that holds nothing is not adopted.
    """
    total = Adoption()
    for derivative in registry.DERIVATIVES:
        invalid: list[UnusableRow] = []
        for page in assessed_pages(pipeline, derivative, invalid):
            # What we made ourselves for an earlier state of the row is no one else's work.
            unrecorded = [
                a
                for a in page
                if a.standing.state is State.NONE and not a.standing.outdated and not a.waits
            ]
            objects = stored_objects(pipeline, derivative, unrecorded)
            present = [a for a in unrecorded if a.row.id in objects]
            if present and not dry_run:
                _record(pipeline, instance, derivative, present, objects)
            total.found += len(unrecorded)
            total.adopted += len(present)
            total.missing += len(unrecorded) - len(present)
            progress(total)
    return total


def _record(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    derivative: Derivative,
    rows: list[Assessed],
    objects: dict[str, ObjectInfo],
) -> None:
    instance.add_dynamic_partitions(
        derivative.partition_set, [assessed.row.id for assessed in rows]
    )
    record_materializations(
        instance,
        [
            dg.AssetMaterialization(
                asset_key=derivative.asset,
                partition=assessed.row.id,
                description="Adopted: made before this pipeline, recorded as it lies in the store.",
                metadata={
                    "path": info.key,
                    "dagster/uri": pipeline.store.uri(info.key),
                    "bytes": info.bytes,
                    "revision": assessed.revision,
                    "adopted": True,
                },
                tags=derivative.materialization_tags(
                    assessed.row, assessed.revision, pipeline.settings
                ),
            )
            for assessed in rows
            for info in [objects[assessed.row.id]]
        ],
    )
