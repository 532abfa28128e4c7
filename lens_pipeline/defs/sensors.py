"""The sensors: those that the registry names, and those for deleted rows and lost webhooks."""

import json

import dagster as dg

from lens_pipeline.defs.labels import OWNERS, code_of
from lens_pipeline.defs.new_rows import DISABLED, new_rows
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.removal import remove_vanished
from lens_pipeline.engine.unfinished_tasks import TICK_SECONDS, UnfinishedTasks, in_words
from lens_pipeline.providers import configured
from lens_pipeline.settings import Settings

_unfinished = UnfinishedTasks()
# Of each minute and derivative: a million partitions take some ten minutes.
_REMOVAL_SECONDS = 1.0


def derivative_sensors() -> list[dg.SensorDefinition]:
    return [derivative_sensor(entry) for entry in registry.entries() if entry.sensor]


def derivative_sensor(derivative: Derivative) -> dg.SensorDefinition:
    @dg.sensor(
        name=derivative.sensor,
        job_name=derivative.job,
        minimum_interval_seconds=derivative.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Requests {derivative.asset} of each row that is new and ready for it.",
        owners=OWNERS,
        tags={"lens/asset": derivative.asset},
        metadata=code_of(new_rows),
    )
    def sensor(
        context: dg.SensorEvaluationContext, lens: LensResource
    ) -> dg.SensorResult | dg.SkipReason:
        return new_rows(context, lens.pipeline(), derivative)

    return sensor


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Deletes the derivatives and partitions of rows that are gone.",
    owners=OWNERS,
    metadata=code_of(remove_vanished),
)
def removed_generations(
    context: dg.SensorEvaluationContext, lens: LensResource
) -> dg.SensorResult | dg.SkipReason:
    pipeline = lens.pipeline()
    if not pipeline.settings.enabled:
        return dg.SkipReason(DISABLED)
    cursors: dict[str, str] = json.loads(context.cursor or "{}")
    done = {
        d: remove_vanished(
            pipeline, context.instance, d, cursors.get(d.asset, ""), seconds=_REMOVAL_SECONDS
        )
        for d in registry.entries()
    }
    for derivative, removal in done.items():
        if removal.refused:
            context.log.warning("%s: %s", derivative.asset, removal.refused)
    return dg.SensorResult(
        skip_reason="; ".join(f"{d.asset}: {removal}" for d, removal in done.items()),
        cursor=json.dumps({d.asset: removal.cursor for d, removal in done.items()}),
    )


def unfinished_tasks(settings: Settings) -> dg.SensorDefinition:
    """Stopped where no provider is set up: each tick costs the databases something."""
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name="unfinished_tasks",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=running if configured(settings) else stopped,
        description="Asks the provider for tasks whose webhook has not come, and finishes their"
        " rows. Runs where a provider is set up.",
        owners=OWNERS,
        metadata=code_of(UnfinishedTasks.look),
    )
    def sensor(context: dg.SensorEvaluationContext, lens: LensResource) -> dg.SkipReason:
        pipeline = lens.pipeline()
        if not pipeline.settings.enabled:
            return dg.SkipReason(DISABLED)
        return dg.SkipReason(in_words(_unfinished.look(pipeline, context.instance)))

    return sensor
