"""How what was made before is recorded: in the event log, as if a run had made it."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lens_pipeline.catalog.rows import Row
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.event_log.history import DerivativeStatus

if TYPE_CHECKING:
    import dagster as dg


@dataclass(slots=True)
class Adoption:
    """Numbers of rows without a record, with and without their object."""

    found: int = 0
    adopted: int = 0
    missing: int = 0


@dataclass(slots=True)
class FileAdoption(Adoption):
    refused: list[dict[str, str]] = field(default_factory=list)
    """The `id` of a row, and the `reason` why a file is not taken for its own."""


def record(
    pipeline: Pipeline,
    instance: "dg.DagsterInstance",
    derivative: Derivative,
    found: Sequence[tuple[Row, DerivativeStatus, Mapping[str, Any]]],
) -> None:
    """The last of each is the metadata."""
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
                metadata=facts,
                tags=derivative.materialization_tags(row, status, pipeline.settings),
            )
            for row, status, facts in found
        ],
    )
