"""The resource through which Dagster's functions reach the pipeline."""

import dagster as dg

from lens_pipeline.derivatives.pipeline import Pipeline, current


class LensResource(dg.ConfigurableResource):
    """Gives Dagster's functions the pipeline; reads the environment when it is first used."""

    def pipeline(self) -> Pipeline:
        return current()
