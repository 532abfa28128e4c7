"""Materializations in few inserts."""

from collections.abc import Sequence

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
)
from dagster._core.events import (
    DagsterEventBatchMetadata,
    StepMaterializationData,
    generate_event_batch_id,
)
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID


def log_materializations(
    context: AssetExecutionContext, materializations: Sequence[AssetMaterialization]
) -> None:
    """As `context.log_event`, for several materializations of one asset at once."""
    step = context.get_step_execution_context()
    batch_id = generate_event_batch_id()
    for number, materialization in enumerate(materializations, start=1):
        batch = DagsterEventBatchMetadata(batch_id, number == len(materializations))
        DagsterEvent.asset_materialization(step, materialization, batch)


def record_materializations(
    instance: DagsterInstance, materializations: Sequence[AssetMaterialization]
) -> None:
    """Record materializations of one asset that no run made, in one batch.

    `report_runless_asset_event` takes two transactions for each.
    """
    batch_id = generate_event_batch_id()
    for number, materialization in enumerate(materializations, start=1):
        instance.report_dagster_event(
            run_id=RUNLESS_RUN_ID,
            dagster_event=DagsterEvent(
                event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                event_specific_data=StepMaterializationData(materialization),
                job_name=RUNLESS_JOB_NAME,
            ),
            batch_metadata=DagsterEventBatchMetadata(batch_id, number == len(materializations)),
        )
