"""Materializations in few inserts, and failures that say why in a line."""

from collections.abc import Mapping, Sequence

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    Failure,
    MetadataValue,
)
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.events import (
    DagsterEventBatchMetadata,
    StepMaterializationData,
    generate_event_batch_id,
)
from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID
from dagster_shared.error import SerializableErrorInfo


class StepFailure(DagsterUserCodeProcessError, Failure):
    """A `Failure` without a stack, which would be of Dagster's own calls, twice in the event log.

    Of `DagsterUserCodeProcessError` Dagster records the error that it is given.
    """

    def __init__(
        self, description: str, metadata: Mapping[str, MetadataValue | str | int] | None = None
    ) -> None:
        error = SerializableErrorInfo(description, [], Failure.__name__)
        super().__init__(
            description,
            metadata=metadata,
            allow_retries=False,
            user_code_process_error_infos=[error],
        )


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
