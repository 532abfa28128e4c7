"""What the application makes: the start of every lineage. Never materialized by us."""

import dagster as dg

from lens_pipeline.defs.partitions import photos, videos

photo_generation = dg.AssetSpec(
    "photo_generation",
    partitions_def=photos,
    group_name="application",
    kinds={"image"},
    description="A finished photo: a row of `generations` with type photo.",
)
video_generation = dg.AssetSpec(
    "video_generation",
    partitions_def=videos,
    group_name="application",
    kinds={"video"},
    description="A finished video: a row of `generations` with type video.",
)
