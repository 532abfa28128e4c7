"""Writes many materializations that no run made, in few inserts."""

from collections.abc import Sequence

from dagster import AssetMaterialization, DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.events import (
    DagsterEventBatchMetadata,
    StepMaterializationData,
    generate_event_batch_id,
)
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID


def record_materializations(
    instance: DagsterInstance, materializations: Sequence[AssetMaterialization]
) -> None:
    """Record them in one batch; all belong to one asset.

    One by one (`report_runless_asset_event`) each costs two transactions.
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
