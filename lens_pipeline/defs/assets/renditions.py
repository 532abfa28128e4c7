"""Materializes renditions: those of a run that are of one master share its file and its decode."""

import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lens_pipeline.catalog.rows import Row, ScaledVideo
from lens_pipeline.defs.assets.masters import fetch_master, media_work
from lens_pipeline.defs.assets.materializer import BatchContext, Metadata
from lens_pipeline.defs.assets.renderers import PosterRenderer, media_failures
from lens_pipeline.defs.assets.videos import (
    OF_PARTS,
    Rendered,
    Source,
    VideoMaterializer,
    report_nothing,
)
from lens_pipeline.derivatives.registry import SCALED
from lens_pipeline.errors import DerivativeError, NotReady, SourceMissing
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import ScaleSpec, Video
from lens_pipeline.media.renditions.render import Renditions
from lens_pipeline.settings import Settings
from lens_pipeline.storage.object_store import Fetched


@dataclass(slots=True)
class _Group:
    """Rows of one master, and its file once it is fetched."""

    rows: list[ScaledVideo]
    directory: Path
    work: Work
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    fetched: Fetched | None = None
    failure: DerivativeError | None = None
    renditions: Renditions | None = None

    @property
    def file(self) -> Path:
        return self.directory / "master"


class RenditionMaterializer(VideoMaterializer):
    def __init__(self, settings: Settings) -> None:
        super().__init__(SCALED, settings, self._rendered, self._fetched)
        self._groups: dict[str, _Group] = {}

    def begin(self, batch: BatchContext, rows: Sequence[Row]) -> None:
        """Say which rows `make` will be called for."""
        of_masters: dict[str, list[ScaledVideo]] = {}
        for row in rows:
            if isinstance(row, ScaledVideo):
                of_masters.setdefault(row.master_id, []).append(row)
        for found in of_masters.values():
            directory = Path(tempfile.mkdtemp(dir=batch.scratch))
            work = media_work(batch, directory, self._settings)
            if len(of_masters) > 1:
                # Each would tell of another stage.
                work = replace(work, report=report_nothing)
            group = _Group(found, directory, work, len(found))
            self._groups |= {row.id: group for row in found}

    def make(self, batch: BatchContext, row: Row, revision: str) -> Metadata:
        group = self._groups[row.id]
        try:
            if not batch.has_rendition(row):
                raise NotReady("it was deleted after the run began")
            return super().make(batch, row, revision)
        finally:
            with group.lock:
                group.left -= 1
                if not group.left:
                    # It knows all packets of the film.
                    group.renditions = None
                    shutil.rmtree(group.directory, ignore_errors=True)

    def _fetched(self, batch: BatchContext, row: ScaledVideo, file: Path) -> Fetched:
        """The master, once for all of its rows."""
        group = self._groups[row.id]
        if row.master is None:
            raise SourceMissing(f"no usable master has the id {row.master_id!r}")
        with group.lock:
            if group.failure is not None:
                raise group.failure
            try:
                if group.fetched is None:
                    group.fetched = fetch_master(batch, row.master, group.file)
            except DerivativeError as error:
                group.failure = error
                raise
            file.symlink_to(group.file)
            return group.fetched

    def _store(
        self, batch: BatchContext, source: Source, revision: str, made: Rendered, video: Video
    ) -> Metadata:
        try:
            return super()._store(batch, source, revision, made, video)
        finally:
            # Others of its group may take long.
            video.path.unlink(missing_ok=True)

    def _rendered(
        self, source: Source, posters: PosterRenderer, _: Settings, _work: Work
    ) -> Rendered:
        row: ScaledVideo = source.row
        group = self._groups[row.id]
        with media_failures():
            with group.lock:
                if group.renditions is None:
                    specs = [_spec(one) for one in group.rows]
                    group.renditions = Renditions(group.file, specs, Tools.find(), group.work)
            video = group.renditions.render(group.rows.index(row))
        picture, _facts = posters.render(video.path)
        facts: Metadata = {"method": "copy" if video.is_copied else "encode"}
        if row.start_seconds is None and row.end_seconds is None:
            return Rendered(video, picture, facts)
        return Rendered(video, picture, facts, OF_PARTS)


def _spec(row: ScaledVideo) -> ScaleSpec:
    return ScaleSpec(
        row.width,
        row.height,
        row.start_seconds,
        row.end_seconds,
        fill=row.fill or "black",
        focus=row.focus,
        enlarge=row.fill is None or row.enlarged,
    )
