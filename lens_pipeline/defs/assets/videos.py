"""Materializes videos made of one file: hover clips and playable copies."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg

from lens_pipeline.catalog.rows import Row, ScaledVideo
from lens_pipeline.defs.assets.masters import media_work, shot_limits
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata, stage_seconds
from lens_pipeline.defs.assets.pictures import Fetch, fetch_source
from lens_pipeline.defs.assets.renderers import PosterRenderer, media_failures
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.media.clips import MOST_BYTES, render_clip
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import Picture, Video
from lens_pipeline.media.playable import render_playable
from lens_pipeline.settings import Settings

# Of a picture that is only shown small.
_EDGE = 480
OF_PARTS = ("c2pa.trimmed", "c2pa.transcoded")


@dataclass(frozen=True, slots=True)
class Source:
    """The file that a video is made of."""

    row: Any
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Rendered:
    video: Video | None = None  # None: the row needs none
    picture: Picture | None = None
    facts: Metadata = field(default_factory=dict)
    actions: tuple[str, ...] = ("c2pa.transcoded",)  # as C2PA calls what became of its source
    most_bytes: int | None = None  # of the whole file


Render = Callable[[Source, PosterRenderer, Settings, Work], Rendered]


def clip(source: Source, posters: PosterRenderer, _: Settings, work: Work) -> Rendered:
    picture, facts = posters.render(source.path)
    at, seconds = facts["poster_at_seconds"], facts["duration_seconds"]
    with media_failures():
        video = render_clip(source.path, at, seconds, Tools.find(), work)
    return Rendered(video, picture, {"poster_at_seconds": at}, OF_PARTS, MOST_BYTES)


def playable_copy(
    source: Source, posters: PosterRenderer, settings: Settings, work: Work
) -> Rendered:
    with media_failures():
        limits = shot_limits(settings)
        copy = render_playable(source.path, source.sha256, Tools.find(), work, limits)
    if copy is None:
        return Rendered(facts={"method": "none", "reason": "all browsers play the video itself"})
    picture, facts = posters.render(copy.path)
    size = picture.source_width, picture.source_height
    video = Video(copy.path, *size, facts["duration_seconds"])
    return Rendered(video, picture, {"method": copy.method, "reason": copy.reason})


class VideoMaterializer:
    def __init__(
        self,
        derivative: Derivative,
        settings: Settings,
        render: Render,
        fetch: Fetch = fetch_source,
    ) -> None:
        self._derivative = derivative
        self._settings = settings
        self._posters = PosterRenderer(settings, _EDGE)
        self._render = render
        self._fetch = fetch

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=batch.scratch) as name:
            directory = Path(name)
            file = directory / "source"
            fetched = self._fetch(batch, row, file)
            fetch_ended = time.monotonic()
            source = Source(row, file, fetched.sha256)
            work = self._work(batch, directory)
            made = self._render(source, self._posters, self._settings, work)
            render_ended = time.monotonic()
            stored = self._store(batch, source, revision, made, made.video) if made.video else {}
        image = dg.MetadataValue.md(made.picture.inline_markdown) if made.picture else None
        return {
            # Shown in this order.
            **({"image": image} if image else {}),
            **made.facts,
            **stored,
            "source_bytes": fetched.bytes,
            "source_sha256": fetched.sha256,
            "revision": revision,
            **stage_seconds(row, started, fetch_ended, render_ended),
            **({"thumbhash": made.picture.thumbhash} if made.picture else {}),
        }

    def interrupt(self) -> None:
        self._posters.interrupt()

    def _work(self, batch: BatchContext, directory: Path) -> Work:
        work = media_work(batch, directory, self._settings)
        # Of several files at once, each would tell of another stage.
        return work if self._derivative.most_in_run == 1 else replace(work, report=report_nothing)

    def _store(
        self, batch: BatchContext, source: Source, revision: str, made: Rendered, video: Video
    ) -> Metadata:
        row = source.row
        key = self._derivative.object_key(row, revision)
        title = row.master_id if isinstance(row, ScaledVideo) else row.id
        batch.provenance.complete_mp4(
            row,
            video.path,
            key,
            lambda: [batch.provenance.source(row, title, source.path, source.sha256)],
            made.actions,
            made.most_bytes,
        )
        size = video.path.stat().st_size
        batch.transfers.upload(key, video.path, "video/mp4", revision)
        return {
            "path": key,
            "dagster/uri": batch.transfers.store.uri(key),
            "bytes": size,
            "width": video.width,
            "height": video.height,
            "duration_seconds": round(video.duration_seconds, 3),
        }


def report_nothing(stage: str, share: float) -> None:
    """Do nothing."""
