"""The resource of assets, sensors and schedules."""

import dagster as dg

from lens_pipeline.derivatives.pipeline import Pipeline, current


class LensResource(dg.ConfigurableResource):
    """The pipeline; reads the environment at first use."""

    def pipeline(self) -> Pipeline:
        return current()
