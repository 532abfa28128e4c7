"""The derivatives there are: which rows they come from, where they go, what determines them."""

from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

from lens_pipeline import keys
from lens_pipeline.catalog import Generation, Kind
from lens_pipeline.partitions import photos, videos
from lens_pipeline.settings import Settings
from lens_pipeline.status import REVISION_TAG

# WebP method. A preview is made once and looked at many times: at 2 it would be made 1.6 times as
# fast (28 ms less, of about 2 s from row to preview) and have 10 % more bytes at the same SSIM.
WEBP_EFFORT = 4


@dataclass(frozen=True, slots=True)
class Derivative:
    """One kind of output, made for every finished generation of one kind."""

    asset: str
    upstream: str
    job: str
    kind: Kind
    partitions: dg.DynamicPartitionsDefinition
    code_version: str
    object_key: Callable[[Generation], str]

    def revision(self, generation: Generation, settings: Settings) -> str:
        """What the output's `revision` must be to match the row as it is now."""
        parameters = {
            "edge": settings.preview_edge,
            "quality": settings.preview_quality,
            "effort": WEBP_EFFORT,
        }
        return keys.revision(
            [generation.asset_url], self.object_key(generation), parameters, self.code_version
        )

    def materialization_tags(self, revision: str) -> dict[str, str]:
        """Dagster's tags for data version and provenance.

        `status.py` reads the revision from the first. Without the others Dagster's UI shows every
        partition as out of sync with its row, which is external and has no events.
        """
        return {
            REVISION_TAG: revision,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": self.code_version,
            f"dagster/input_data_version/{self.upstream}": "INITIAL",
            f"dagster/input_event_pointer/{self.upstream}": "NULL",
        }


PREVIEW = Derivative(
    asset="preview",
    upstream="photo_generation",
    job="previews",
    kind=Kind.PHOTO,
    partitions=photos,
    code_version="1",
    object_key=keys.preview_key,
)
POSTER = Derivative(
    asset="poster",
    upstream="video_generation",
    job="posters",
    kind=Kind.VIDEO,
    partitions=videos,
    code_version="1",
    object_key=keys.poster_key,
)
DERIVATIVES = (PREVIEW, POSTER)
