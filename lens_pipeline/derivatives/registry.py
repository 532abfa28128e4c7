"""The one list of what is made of which row: key, revision, queue, job, partition set, sensor.

How it is made is in `defs/assets`. Read `registry.DERIVATIVES` when needed; keep no copy of it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lens_pipeline.catalog.rows import (
    Generation,
    Kind,
    MasterVideo,
    ProjectAsset,
    Row,
    ScaledVideo,
    Shot,
)
from lens_pipeline.event_log.tags import REVISION_TAG
from lens_pipeline.settings import Settings

QUEUE_TAG = "dagster-celery/queue"
PREVIEWS = "previews"
# Encodes take minutes: they must not delay a preview.
MASTERS = "masters"
QUEUES = (PREVIEWS, MASTERS)

REPORT_ASSET = "daily_report"
# Assets of the application's rows, with their partition sets.
GENERATIONS = {"photo_generation": "photos", "video_generation": "videos"}

# WebP method. Method 2 takes 28 ms less, of about 2 s from row to preview, and 10 % more bytes at
# the same SSIM.
WEBP_EFFORT = 4

Parameters = Mapping[str, float | None]
R = TypeVar("R", bound=Row)


def revision(sources: list[str], key: str, parameters: Parameters, code_version: str) -> str:
    """First 12 hex digits of a SHA-256 over all that determines an output.

    `sources`: ordered identities of what it is made from.
    """
    identity = json.dumps([sources, key, parameters, code_version], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False, kw_only=True)
class Derivative(Generic[R]):
    """An output of every finished row of one kind."""

    asset: str
    description: str
    kind: Kind
    partition_set: str
    upstream: str
    job: str
    queue: str
    # Object key without revision and extension.
    stem: Callable[[R], str]
    # None: nothing is stored.
    extension: str | None
    # Whether the object key has the revision.
    is_versioned: bool = True
    code_version: str = "1"
    group: str
    # Requests it for new rows; seconds between ticks.
    sensor: str | None = None
    sensor_seconds: int = 1
    # Most partitions in one run; None: LENS_BATCH_SIZE.
    most_in_run: int | None = None
    # Op of several assets of a job; None: its own, named as the asset.
    shared_op: str | None = None
    # The derivative it is made from, and the row of that.
    made_from: "Derivative | None" = None
    source_row: Callable[[R], Row | None] = lambda _: None
    # Identities of what it is made from, without `made_from`.
    sources: Callable[[R], list[str]] = lambda _: []
    # Longest edge of a picture in pixels; None: LENS_PREVIEW_EDGE.
    edge: int | None = None
    # Parameters in the row, of outputs other than pictures.
    form: Callable[[R], Parameters] = lambda _: {}
    # What the row lacks before it can be made, in words.
    waits_for: Callable[[R], str | None] = lambda _: None

    def revision(self, row: R, settings: Settings) -> str:
        """The revision that matches the row as it is now."""
        if self.made_from is None:
            sources = self.sources(row)
        else:
            source = self.source_row(row)
            sources = [self.made_from.revision(source, settings) if source else ""]
        key = self.stem(row) if self.is_versioned else self.object_key(row, "")
        return revision(sources, key, self._parameters(row, settings), self.code_version)

    def object_key(self, row: R, revision: str) -> str:
        """Raises NotImplementedError: nothing is stored."""
        if self.extension is None:
            raise NotImplementedError(f"a {self.asset} stores nothing of its own")
        version = f"_{revision}" if self.is_versioned else ""
        return f"{self.stem(row)}{version}.{self.extension}"

    def picture_edge(self, settings: Settings) -> int:
        return self.edge or settings.preview_edge

    def batch_size(self, settings: Settings) -> int:
        return min(self.most_in_run or settings.batch_size, settings.batch_size)

    @property
    def run_assets(self) -> tuple[str, ...] | None:
        """The assets to select in a run of `job`; None: all."""
        follows = self.made_from is not None and self.made_from.job == self.job
        return (self.asset,) if follows else None

    def materialization_tags(self, row: R, revision: str, settings: Settings) -> dict[str, str]:
        """Dagster's tags for data version and provenance.

        `event_log` reads the revision from the first; without the others Dagster's UI shows every
        partition as out of sync. A row is external and has no events.
        """
        source = self.source_row(row)
        version = "INITIAL"
        if self.made_from is not None and source is not None:
            version = self.made_from.revision(source, settings)
        return {
            REVISION_TAG: revision,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": self.code_version,
            f"dagster/input_data_version/{self.upstream}": version,
            f"dagster/input_event_pointer/{self.upstream}": "NULL",
        }

    def _parameters(self, row: R, settings: Settings) -> Parameters:
        if self.extension != "webp":
            return self.form(row)
        return {
            "edge": self.picture_edge(settings),
            "quality": settings.preview_quality,
            "effort": WEBP_EFFORT,
        }


def _master_stem(row: MasterVideo) -> str:
    return f"masters/{row.project_id}/master_{row.id}"


def _master_sources(row: MasterVideo) -> list[str]:
    return [*(_shot_source(shot) for shot in row.shots), row.problem or ""]


def _shot_source(shot: Shot) -> str:
    return shot.source or shot.problem or shot.waits or ""


def _master_waits(row: MasterVideo) -> str | None:
    if any(shot.problem for shot in row.shots):
        return None
    return next((shot.waits for shot in row.shots if shot.waits), None)


def _scaled_form(row: ScaledVideo) -> Parameters:
    return {
        "start": row.start_seconds,
        "end": row.end_seconds,
        "width": row.width,
        "height": row.height,
    }


PREVIEW = Derivative[Generation](
    asset="preview",
    description="WebP preview of one photo: upright, sRGB, at most LENS_PREVIEW_EDGE pixels.",
    kind=Kind.PHOTO,
    partition_set="photos",
    upstream="photo_generation",
    job="previews",
    queue=PREVIEWS,
    stem=lambda row: f"{row.user_id}/previews/{row.id}_preview",
    extension="webp",
    is_versioned=False,
    group="derivatives",
    sensor="new_photos",
    sources=lambda row: [row.asset_url],
)
POSTER = Derivative[Generation](
    asset="poster",
    description="WebP poster of one video: its first frame worth looking at.",
    kind=Kind.VIDEO,
    partition_set="videos",
    upstream="video_generation",
    job="posters",
    queue=PREVIEWS,
    stem=lambda row: f"{row.user_id}/posters/{row.id}_poster",
    extension="webp",
    is_versioned=False,
    group="derivatives",
    sensor="new_videos",
    sources=lambda row: [row.asset_url],
)
MASTER = Derivative[MasterVideo](
    asset="master_video",
    description="Shots of a project joined into one MP4: copied where they can be, encoded anew"
    " only where they must be, and proved against their sources.",
    kind=Kind.MASTER,
    partition_set="masters",
    upstream="video_generation",
    job="masters",
    queue=MASTERS,
    stem=_master_stem,
    extension="mp4",
    group="masters",
    sensor="new_masters",
    sensor_seconds=2,
    # A run that is cancelled or fails affects no other.
    most_in_run=1,
    # Dagster skips a second step when the first does nothing.
    shared_op="master",
    sources=_master_sources,
    waits_for=_master_waits,
)
MASTER_POSTER = Derivative[MasterVideo](
    asset="master_poster",
    description="WebP poster of one master: its first frame worth looking at.",
    kind=Kind.MASTER,
    partition_set="masters",
    upstream="master_video",
    job="masters",
    queue=MASTERS,
    stem=_master_stem,
    extension="webp",
    group="masters",
    most_in_run=1,
    shared_op="master",
    made_from=MASTER,
    source_row=lambda row: row,
)
SCALED = Derivative[ScaledVideo](
    asset="scaled_video",
    description="A master, or a part of it, fitted into another size.",
    kind=Kind.SCALED,
    partition_set="scaled",
    upstream="master_video",
    job="scaled",
    queue=MASTERS,
    # A rendition without a master is never made.
    # One without a master is never made.
    stem=lambda row: f"scaled/{row.master.project_id if row.master else ''}/{row.id}",
    extension="mp4",
    group="masters",
    sensor="new_scaled",
    sensor_seconds=3,
    most_in_run=1,
    made_from=MASTER,
    source_row=lambda row: row.master,
    form=_scaled_form,
)
# Each comes after what it is made from.
DERIVATIVES: tuple[Derivative, ...] = (PREVIEW, POSTER, MASTER, MASTER_POSTER, SCALED)

# No derivative: it only saves later masters time, so no gap is filled and no status is shown.
CHECKED_SHOT = Derivative[ProjectAsset](
    asset="checked_shot",
    description="Whether a project's asset can be a shot: saves its masters decoding it.",
    kind=Kind.SHOT,
    partition_set="shots",
    upstream="video_generation",
    job="shot_checks",
    queue=MASTERS,
    stem=lambda row: row.id,
    extension=None,
    group="masters",
    sensor="new_shots",
    sensor_seconds=5,
    # A master that is requested meanwhile waits for the run.
    most_in_run=5,
    sources=lambda row: [_shot_source(row.shot)],
    # An asset may be a picture: that is no fault to report.
    waits_for=lambda row: row.shot.waits or row.shot.problem,
)


def entries() -> tuple[Derivative, ...]:
    """The derivatives, and the check of shots."""
    return (*DERIVATIVES, CHECKED_SHOT)


def assets() -> tuple[str, ...]:
    return tuple(derivative.asset for derivative in DERIVATIVES)


def by_asset(asset: str) -> Derivative:
    """Raises KeyError: no derivative has this asset."""
    return {derivative.asset: derivative for derivative in DERIVATIVES}[asset]


def kinds() -> tuple[Kind, ...]:
    return tuple(dict.fromkeys(derivative.kind for derivative in DERIVATIVES))


def of_kind(*kinds: Kind) -> tuple[Derivative, ...]:
    return tuple(derivative for derivative in DERIVATIVES if derivative.kind in kinds)


def of_generations() -> tuple[Derivative, ...]:
    """What is made of photos and videos."""
    return of_kind(Kind.PHOTO, Kind.VIDEO)


def primary(kind: Kind) -> Derivative:
    """The first of a kind: its rows are listed and reported by it."""
    return of_kind(kind)[0]


def queue_of(assets: Iterable[str]) -> str:
    """The queue of a run of `assets`; PREVIEWS if none of them is known."""
    queues = {entry.asset: entry.queue for entry in entries()} | {REPORT_ASSET: MASTERS}
    return next((queues[asset] for asset in assets if asset in queues), PREVIEWS)
