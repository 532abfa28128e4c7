"""The command `adopt`: records derivatives that an older system left in the store."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from lens_pipeline.catalog.rows import Row
from lens_pipeline.cli.progress import meter
from lens_pipeline.cli.session import dagster_session, json_option, print_json
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.derivatives.store_audit import stored_objects
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.storage.object_store import ObjectInfo

if TYPE_CHECKING:
    import dagster as dg


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be recorded.")
@json_option
def adopt(dry_run: bool, as_json: bool) -> None:
    """Record derivatives that already lie in the store, without making them again."""
    with dagster_session("adopt") as lens, meter("rows", None) as progress:
        result = _record_stored(
            lens.pipeline,
            lens.instance,
            dry_run=dry_run,
            progress=lambda total: progress.show(total.found, f"{total.adopted} adopted"),
        )
    if as_json:
        print_json(result)
    else:
        verb = "would be adopted" if dry_run else "adopted"
        print(f"{result.found} without a record: {result.adopted} {verb}, {result.missing} missing")


@dataclass(slots=True)
class Adoption:
    """Numbers of rows without a record, with and without their object."""

    found: int = 0
    adopted: int = 0
    missing: int = 0


def _record_stored(
    pipeline: Pipeline,
    instance: "dg.DagsterInstance",
    *,
    dry_run: bool,
    progress: Callable[[Adoption], None],
) -> Adoption:
    """Record every finished row whose derivative lies at its key but not in the event log.

    The object counts as made from the row as it is now. An empty object is not adopted.
    """
    total = Adoption()
    for derivative in registry.switched_on(pipeline.settings):
        for page in pipeline.catalog.all_finished(derivative.kind):
            rows = usable(page)
            # What we made for an earlier state of the row has a record.
            unrecorded = [
                (row, status)
                for row, status in zip(rows, assess(pipeline, derivative, rows), strict=True)
                if status.is_unrecorded and not status.waits
            ]
            objects = stored_objects(pipeline, [status for _, status in unrecorded])
            present = [
                (row, status, objects[row.id]) for row, status in unrecorded if row.id in objects
            ]
            if present and not dry_run:
                _record(pipeline, instance, derivative, present)
            total.found += len(unrecorded)
            total.adopted += len(present)
            total.missing += len(unrecorded) - len(present)
            progress(total)
    return total


def _record(
    pipeline: Pipeline,
    instance: "dg.DagsterInstance",
    derivative: Derivative,
    found: list[tuple[Row, DerivativeStatus, ObjectInfo]],
) -> None:
    import dagster as dg

    from lens_pipeline.engine.events import record_materializations

    # Older keys would only retire: a tick takes seconds with a million of them.
    oldest = pipeline.catalog.now() - dt.timedelta(days=pipeline.settings.retain_partitions_days)
    keys = [row.id for row, _, _ in found if row.finished_at and row.finished_at >= oldest]
    instance.add_dynamic_partitions(derivative.partition_set, keys)
    record_materializations(
        instance,
        [
            dg.AssetMaterialization(
                asset_key=derivative.asset,
                partition=row.id,
                description="Adopted: made before this pipeline, recorded as it lies in the store.",
                metadata={
                    "path": info.key,
                    "dagster/uri": pipeline.store.uri(info.key),
                    "bytes": info.bytes,
                    "revision": status.revision,
                    "adopted": True,
                },
                tags=derivative.materialization_tags(row, status, pipeline.settings),
            )
            for row, status, info in found
        ],
    )
