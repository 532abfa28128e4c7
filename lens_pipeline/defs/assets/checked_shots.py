"""Shots that are checked before anybody makes a master of them."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import ProjectAsset, Row
from lens_pipeline.defs.assets.batch import materialize_batch
from lens_pipeline.defs.assets.master_maker import media_work, shot_limits
from lens_pipeline.defs.assets.materializer import Metadata, Workshop, latency_seconds
from lens_pipeline.defs.assets.media_errors import media_failures
from lens_pipeline.defs.assets.shot_cache import ShotCache
from lens_pipeline.defs.partitions import shots
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import CHECKED_SHOT
from lens_pipeline.errors import ShotUnusable, SourceOverLimit
from lens_pipeline.media.concat.join import Source, examine
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.settings import Settings


class ShotChecker:
    """Finds out about a shot what joining needs to know, and whether all of it decodes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def make(self, workshop: Workshop, row: Row, revision: str) -> Metadata:
        if not isinstance(row, ProjectAsset):
            raise TypeError(f"{row.id} is no asset of a project")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=workshop.scratch) as name:
            directory = Path(name)
            file = directory / "source"
            fetched = workshop.fetcher.fetch(row.shot.source, file)
            work = media_work(workshop, directory, self._settings, 1)
            source = Source(row.id, file, fetched.sha256)
            cache = ShotCache(workshop.store, directory)
            try:
                with media_failures():
                    examine(source, Tools.find(), work, cache, shot_limits(self._settings))
                reason = None
            except (ShotUnusable, SourceOverLimit) as error:
                # The result of the check, not its failure: an asset may be a picture as well.
                reason = str(error)
        return {
            "usable": dg.MetadataValue.bool(reason is None),
            **({"reason": reason} if reason else {}),
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            "seconds": round(time.monotonic() - started, 4),
            "latency_seconds": latency_seconds(row),
        }

    def interrupt(self) -> None:
        """`workshop.cancelled` is all it looks at."""


# Recorded by themselves, hence no output; which video a shot is, is in its row.
@dg.asset(
    name=CHECKED_SHOT.asset,
    partitions_def=shots,
    deps=[
        dg.AssetDep("video_generation", partition_mapping=dg.SpecificPartitionsPartitionMapping([]))
    ],
    code_version=CHECKED_SHOT.code_version,
    output_required=False,
    group_name="masters",
)
def checked_shot(
    context: dg.AssetExecutionContext, lens: LensResource
) -> Iterator[dg.Output[None]]:
    """Whether a project's asset can be a shot: saves its masters decoding it."""
    pipeline = lens.pipeline()
    materialize_batch(context, pipeline, (CHECKED_SHOT, ShotChecker(pipeline.settings)))
    yield from ()
