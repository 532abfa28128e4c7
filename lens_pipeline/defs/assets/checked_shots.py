"""Checks shots ahead of the masters that may use them."""

import tempfile
import time
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import ProjectAsset, Row
from lens_pipeline.defs.assets.masters import media_work, shot_limits
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, latency_seconds
from lens_pipeline.defs.assets.renderers import media_failures
from lens_pipeline.defs.assets.shot_cache import ShotCache
from lens_pipeline.errors import ShotUnusable, SourceOverLimit
from lens_pipeline.media.concat.audio import DAMAGED
from lens_pipeline.media.concat.join import Source, examine
from lens_pipeline.media.concat.probe import Audio
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.settings import Settings


class ShotChecker:
    """Decodes a shot whole, measures its sound, and caches what joining needs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        if not isinstance(row, ProjectAsset):
            raise TypeError(f"{row.id} is no asset of a project")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=batch.scratch) as name:
            directory = Path(name)
            file = directory / "source"
            batch.originals.look_up_shots([row.shot])
            fetched = batch.originals.fetch_shot(row.shot, file)
            work = media_work(batch, directory, self._settings)
            source = Source(row.id, file, fetched.sha256)
            cache = ShotCache(batch.transfers.store, directory, batch.cancelled)
            facts: Metadata = {}
            try:
                with media_failures():
                    shot = examine(source, Tools.find(), work, cache, shot_limits(self._settings))
                facts = {"duration_seconds": round(float(shot.length), 3), **_sound(shot.audio)}
                reason = None
            except (ShotUnusable, SourceOverLimit) as error:
                # No failure: an asset may be a picture.
                reason = str(error)
        return {
            "usable": dg.MetadataValue.bool(reason is None),
            **({"reason": reason} if reason else {}),
            **facts,
            **({"generation": row.generation_id} if row.generation_id else {}),
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            "seconds": round(time.monotonic() - started, 4),
            "latency_seconds": latency_seconds(row),
        }

    def interrupt(self) -> None:
        """Does nothing: the check looks at `batch.cancelled`."""


def _sound(track: Audio | None) -> Metadata:
    if track is None or track.loudness is None or track.peak is None:
        return {}
    return {
        "loudness_lufs": track.loudness,
        "true_peak_dbtp": track.peak,
        **({"sound": DAMAGED} if track.damaged else {}),
    }
