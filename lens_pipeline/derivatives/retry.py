"""How failed derivatives and dead letters are tried again."""

from collections.abc import Iterable

import dagster as dg

from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.dead_letters import dead_of
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.history import ObservationKind, State
from lens_pipeline.event_log.tags import OUTCOME_TAG


def retry(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    ids: Iterable[str] | None,
    derivatives: Iterable[Derivative] | None = None,
) -> dict[Derivative, list[str]]:
    """Forget failures of `ids`; None: of every dead letter.

    Also of those among `ids` that are outdated and could not be made anew. Returns the ids that
    had failed and can be made now.
    """
    revived: dict[Derivative, list[str]] = {}
    for derivative in derivatives or registry.switched_on(pipeline):
        if ids is None:
            candidates = dead_of(pipeline, derivative)
        else:
            rows = pipeline.catalog.finished(derivative.kind, ids).values()
            candidates = assess(pipeline, derivative, usable(list(rows)))
        wanted = [status.wanted for status in candidates]
        failed = [s for s in wanted if s.state in (State.FAILED, State.DEAD)]
        for status in failed:
            retried = dg.AssetObservation(
                asset_key=status.asset,
                partition=status.id,
                metadata={"retry": f"after {status.error_class}"},
                tags={OUTCOME_TAG: ObservationKind.RETRY.value},
            )
            instance.report_runless_asset_event(retried)
        if failed:
            revived[derivative] = [status.id for status in failed if not status.waits_for]
    return revived
