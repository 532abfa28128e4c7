"""Materializes master videos: download the shots, join them, store the result."""

import hashlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import dagster as dg

from lens_pipeline.catalog.rows import MasterVideo, Row
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, stage_seconds
from lens_pipeline.defs.assets.progress import ProgressEstimate, reported
from lens_pipeline.defs.assets.renderers import PosterRenderer, media_failures
from lens_pipeline.defs.assets.shot_cache import ShotCache
from lens_pipeline.derivatives.registry import MASTER
from lens_pipeline.errors import DerivativeError, ShotUnusable
from lens_pipeline.event_log.history import Stage
from lens_pipeline.media.concat.join import Limits, Master, Source, join
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import Picture
from lens_pipeline.settings import Settings
from lens_pipeline.storage.object_store import Fetched

# Downloads at once: the shots of a master come from one host.
_DOWNLOADS = 4


class MasterMaterializer:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pictures = PosterRenderer(settings, settings.preview_edge)

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        if not isinstance(row, MasterVideo):
            raise TypeError(f"{row.id} is no master")
        problem = row.problem or next((shot.problem for shot in row.shots if shot.problem), None)
        if problem:
            raise ShotUnusable(problem)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=batch.scratch) as name:
            directory = Path(name)
            fetched = _fetch(batch, row, directory)
            fetch_ended = time.monotonic()
            sources = [
                Source(shot.asset_id, *fetched[str(shot.source)][:2], shot.quiet)
                for shot in row.shots
            ]
            master = self._join(batch, sources, directory)
            key = MASTER.object_key(row, revision)
            picture = self._complete(batch, row, master, sources, key)
            render_ended = time.monotonic()
            batch.report(reported(98, Stage.STORING, "storing"))
            size = master.path.stat().st_size
            batch.transfers.upload(key, master.path, "video/mp4", revision)
        digests = "\n".join(source.sha256 for source in sources)
        return {
            # Shown in this order.
            "image": dg.MetadataValue.md(picture.inline_markdown),
            "method": master.method,
            "shots": _table(master, row),
            **({"fallback": master.fallback} if master.fallback else {}),
            "path": key,
            "dagster/uri": batch.transfers.store.uri(key),
            "bytes": size,
            "width": master.width,
            "height": master.height,
            "duration_seconds": round(master.duration_seconds, 3),
            "joins": dg.MetadataValue.json(_joins(master)),
            "source_bytes": sum(bytes_ for _, _, bytes_ in fetched.values()),
            "source_sha256": hashlib.sha256(digests.encode()).hexdigest(),
            "revision": revision,
            **stage_seconds(row, started, fetch_ended, render_ended),
            "thumbhash": picture.thumbhash,
        }

    def interrupt(self) -> None:
        self._pictures.interrupt()

    def _complete(
        self, batch: BatchContext, row: MasterVideo, master: Master, sources: list[Source], key: str
    ) -> Picture:
        """Adds its provenance; its picture is made meanwhile, in another process."""
        with ThreadPoolExecutor(1, "picture") as thread:
            rendered = thread.submit(self._pictures.render, master.path)
            batch.provenance.complete_mp4(
                row,
                master.path,
                key,
                lambda: [
                    batch.provenance.source(shot, source.name, source.path, source.sha256)
                    for source, shot in zip(sources, row.shots, strict=True)
                ],
            )
            picture, _ = rendered.result()
        return picture

    def _join(self, batch: BatchContext, sources: list[Source], directory: Path) -> Master:
        work = media_work(batch, directory, self._settings)
        loudness = self._settings.master_loudness
        with media_failures():
            cache = ShotCache(batch.transfers.store, directory, batch.cancelled)
            return join(
                sources,
                Tools.find(),
                work,
                cache,
                shot_limits(self._settings),
                self._settings.master_compatibility,
                None if loudness == "off" else loudness,
            )


def fetch_master(batch: BatchContext, row: MasterVideo, file: Path) -> Fetched:
    return batch.transfers.download(batch.master_key(row), file)


def shot_limits(settings: Settings) -> Limits:
    return Limits(settings.max_pixels, settings.max_master_seconds)


def media_work(batch: BatchContext, directory: Path, settings: Settings) -> Work:
    """Limits and progress of ffmpeg's work."""
    estimate = ProgressEstimate()
    return Work(
        directory=directory,
        cancelled=batch.cancelled.is_set,
        report=lambda stage, share: batch.report(estimate.at(stage, share)),
        idle_seconds=settings.encode_idle_seconds,
    )


def _fetch(
    batch: BatchContext, row: MasterVideo, directory: Path
) -> dict[str, tuple[Path, str, int]]:
    """File, SHA-256 and bytes of each source, each fetched once."""
    shots = {str(shot.source): shot for shot in reversed(row.shots)}
    files = {source: directory / f"source-{number:04}" for number, source in enumerate(shots)}

    def fetch(source: str) -> Fetched:
        shot = shots[source]
        batch.report(reported(0, Stage.FETCHING, f"fetching shot {shot.asset_id!r}"))
        try:
            return batch.originals.fetch_shot(shot, files[source])
        except DerivativeError as error:
            error.args = (f"shot {shot.asset_id!r}: {error}", *error.args[1:])
            raise

    batch.originals.look_up_shots(row.shots)
    with ThreadPoolExecutor(_DOWNLOADS, "fetch") as threads:
        fetched = list(threads.map(fetch, shots))
    return {
        source: (files[source], result.sha256, result.bytes)
        for source, result in zip(shots, fetched, strict=True)
    }


def _joins(master: Master) -> list[float]:
    """Seconds at which each shot but the first begins: scene changes, for orders of fragments."""
    return [round(at, 6) for at in accumulate(shot.seconds for shot in master.shots[:-1])]


def _table(master: Master, row: MasterVideo) -> dg.TableMetadataValue:
    """The lineage of a master: Dagster knows none between partitions of different sets."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "shot": shot.name,
                    "generation": source.generation_id or "",
                    "done": f"{shot.action} (cached)" if shot.cached else shot.action,
                    "why": shot.reason,
                    "seconds": round(shot.seconds, 3),
                    "gain_db": round(shot.gain, 1),
                }
            )
            for shot, source in zip(master.shots, row.shots, strict=True)
        ]
    )
