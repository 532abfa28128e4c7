"""The application's own rows as external assets: the start of every lineage."""

import dagster as dg

from lens_pipeline.defs.partitions import partition_set
from lens_pipeline.derivatives.registry import GENERATIONS


def generation_assets() -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            f"{kind}_generation",
            partitions_def=partition_set(GENERATIONS[f"{kind}_generation"]),
            group_name="application",
            kinds={media},
            description=f"A finished {kind}: a row of `generations` with type {kind}.",
        )
        for kind, media in {"photo": "image", "video": "video"}.items()
    ]
