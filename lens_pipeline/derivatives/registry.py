"""The derivatives there are: which rows they come from, where they go, what determines them."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Generic, TypeVar

import dagster as dg

from lens_pipeline.catalog.rows import Generation, Kind, MasterVideo, ProjectAsset, Row, ScaledVideo
from lens_pipeline.defs.partitions import masters, photos, scaled, shots, videos
from lens_pipeline.event_log.tags import REVISION_TAG
from lens_pipeline.settings import Settings

Parameters = Mapping[str, float | None]


def preview_key(generation: Generation) -> str:
    return f"{generation.user_id}/previews/{generation.id}_preview.webp"


def poster_key(generation: Generation) -> str:
    return f"{generation.user_id}/posters/{generation.id}_poster.webp"


def master_stem(master: MasterVideo) -> str:
    """The key of a master's video and poster without revision and suffix."""
    return f"masters/{master.project_id}/master_{master.id}"


def scaled_stem(scaled: ScaledVideo) -> str:
    """The key of a rendition without revision and suffix; one without a master is never made."""
    project_id = scaled.master.project_id if scaled.master else ""
    return f"scaled/{project_id}/{scaled.id}"


def revision(sources: list[str], key: str, parameters: Parameters, code_version: str) -> str:
    """First 12 hex digits of a SHA-256 over everything that determines an output.

    `sources` are the ordered identities of what it is made from; `key` is where it is stored.
    """
    identity = json.dumps([sources, key, parameters, code_version], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


QUEUE_TAG = "dagster-celery/queue"

PREVIEWS = "previews"
# Encodes take minutes: they must never delay a preview.
MASTERS = "masters"
QUEUES = (PREVIEWS, MASTERS)

_BY_ASSET = {
    "preview": PREVIEWS,
    "poster": PREVIEWS,
    "checked_shot": MASTERS,
    "master_video": MASTERS,
    "master_poster": MASTERS,
    "scaled_video": MASTERS,
    "daily_report": MASTERS,
}


def queue_of(assets: Iterable[str]) -> str:
    """The queue for a run of `assets`; runs without assets of ours go with the previews."""
    for asset in assets:
        if asset in _BY_ASSET:
            return _BY_ASSET[asset]
    return PREVIEWS


# WebP method. A preview is made once and looked at many times: at 2 it would be made 1.6 times as
# fast (28 ms less, of about 2 s from row to preview) and have 10 % more bytes at the same SSIM.
WEBP_EFFORT = 4

R = TypeVar("R", bound=Row)


class Derivative(ABC, Generic[R]):
    """One kind of output, made for every finished row of one kind."""

    asset: ClassVar[str]
    upstream: ClassVar[str]
    job: ClassVar[str]
    kind: ClassVar[Kind]
    partitions: ClassVar[dg.DynamicPartitionsDefinition]
    code_version: ClassVar[str]
    # Most partitions in one run; None: LENS_BATCH_SIZE.
    most_in_run: ClassVar[int | None] = None
    # A derivative of the same or another row whose output this one is made from.
    made_from: ClassVar["Derivative | None"] = None

    @abstractmethod
    def revision(self, row: R, settings: Settings) -> str:
        """What the output's `revision` must be to match the row as it is now."""

    @abstractmethod
    def object_key(self, row: R, revision: str) -> str:
        """Where the output is stored."""

    def owner(self, row: R) -> str:
        """Who waits for it: turns go by this (see `fairness`); "" if nobody in particular."""
        return ""

    def waits_for(self, row: R) -> str | None:
        """What of the row's own the output waits for, in words."""
        return None

    def row_made_from(self, row: R) -> Row | None:
        """The row of the `made_from` derivative; None if there is none."""
        return None

    @property
    def run_assets(self) -> tuple[str, ...] | None:
        """What a run of `job` is to make for this derivative; None: all of the job."""
        return None

    def batch_size(self, settings: Settings) -> int:
        """Most partitions in one run."""
        return min(self.most_in_run or settings.batch_size, settings.batch_size)

    def materialization_tags(self, row: R, revision: str, settings: Settings) -> dict[str, str]:
        """Dagster's tags for data version and provenance.

        `status/` reads the revision from the first. Without the others Dagster's UI shows every
        partition as out of sync with what it is made from; a row is external and has no events.
        """
        source = self.row_made_from(row)
        if self.made_from is None or source is None:
            upstream_version, pointer = "INITIAL", "NULL"
        else:
            upstream_version, pointer = self.made_from.revision(source, settings), "NULL"
        return {
            REVISION_TAG: revision,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": self.code_version,
            f"dagster/input_data_version/{self.upstream}": upstream_version,
            f"dagster/input_event_pointer/{self.upstream}": pointer,
        }


def _picture_parameters(settings: Settings) -> Parameters:
    return {
        "edge": settings.preview_edge,
        "quality": settings.preview_quality,
        "effort": WEBP_EFFORT,
    }


class _GenerationPicture(Derivative[Generation]):
    def owner(self, row: Generation) -> str:
        return row.user_id

    def revision(self, row: Generation, settings: Settings) -> str:
        return revision(
            [row.asset_url],
            self.object_key(row, ""),
            _picture_parameters(settings),
            self.code_version,
        )


class _Preview(_GenerationPicture):
    asset = "preview"
    upstream = "photo_generation"
    job = "previews"
    kind = Kind.PHOTO
    partitions = photos
    code_version = "1"

    def object_key(self, row: Generation, revision: str) -> str:
        return preview_key(row)


class _Poster(_GenerationPicture):
    asset = "poster"
    upstream = "video_generation"
    job = "posters"
    kind = Kind.VIDEO
    partitions = videos
    code_version = "1"

    def object_key(self, row: Generation, revision: str) -> str:
        return poster_key(row)


class _Master(Derivative[MasterVideo]):
    asset = "master_video"
    upstream = "video_generation"
    job = "masters"
    kind = Kind.MASTER
    partitions = masters
    code_version = "1"
    # A run each: one that is cancelled or fails concerns nobody else.
    most_in_run = 1

    def revision(self, row: MasterVideo, settings: Settings) -> str:
        sources = [shot.source or shot.problem or shot.waits or "" for shot in row.shots]
        return revision([*sources, row.problem or ""], master_stem(row), {}, self.code_version)

    def object_key(self, row: MasterVideo, revision: str) -> str:
        return f"{master_stem(row)}_{revision}.mp4"

    def owner(self, row: MasterVideo) -> str:
        return row.project_id

    def waits_for(self, row: MasterVideo) -> str | None:
        if any(shot.problem for shot in row.shots):
            return None
        return next((shot.waits for shot in row.shots if shot.waits), None)


MASTER = _Master()


class _MasterPoster(Derivative[MasterVideo]):
    asset = "master_poster"
    upstream = "master_video"
    job = "masters"
    kind = Kind.MASTER
    partitions = masters
    code_version = "1"
    most_in_run = 1
    made_from = MASTER

    @property
    def run_assets(self) -> tuple[str, ...]:
        # A run of the whole job makes the master as well.
        return (self.asset,)

    def revision(self, row: MasterVideo, settings: Settings) -> str:
        source = MASTER.revision(row, settings)
        parameters = _picture_parameters(settings)
        return revision([source], master_stem(row), parameters, self.code_version)

    def object_key(self, row: MasterVideo, revision: str) -> str:
        return f"{master_stem(row)}_{revision}.webp"

    def owner(self, row: MasterVideo) -> str:
        return row.project_id

    def row_made_from(self, row: MasterVideo) -> MasterVideo:
        return row


class _Scaled(Derivative[ScaledVideo]):
    asset = "scaled_video"
    upstream = "master_video"
    job = "scaled"
    kind = Kind.SCALED
    partitions = scaled
    code_version = "1"
    most_in_run = 1
    made_from = MASTER

    def revision(self, row: ScaledVideo, settings: Settings) -> str:
        source = MASTER.revision(row.master, settings) if row.master else ""
        parameters = {
            "start": row.start_seconds,
            "end": row.end_seconds,
            "width": row.width,
            "height": row.height,
        }
        return revision([source], scaled_stem(row), parameters, self.code_version)

    def owner(self, row: ScaledVideo) -> str:
        return row.master.project_id if row.master else ""

    def object_key(self, row: ScaledVideo, revision: str) -> str:
        return f"{scaled_stem(row)}_{revision}.mp4"

    def row_made_from(self, row: ScaledVideo) -> MasterVideo | None:
        return row.master


class _CheckedShot(Derivative[ProjectAsset]):
    """No file of its own: what is found out about a shot is kept for the masters to come."""

    asset = "checked_shot"
    upstream = "video_generation"
    job = "shot_checks"
    kind = Kind.SHOT
    partitions = shots
    code_version = "1"
    # A master that is asked for meanwhile waits for the end of the run.
    most_in_run = 5

    def revision(self, row: ProjectAsset, settings: Settings) -> str:
        shot = row.shot
        source = shot.source or shot.problem or shot.waits or ""
        return revision([source], row.id, {}, self.code_version)

    def object_key(self, row: ProjectAsset, revision: str) -> str:
        return ""  # a check stores nothing of its own

    def waits_for(self, row: ProjectAsset) -> str | None:
        # Pictures are assets of projects as well: what is no shot is not for us to complain of.
        return row.shot.waits or row.shot.problem


PREVIEW = _Preview()
POSTER = _Poster()
MASTER_POSTER = _MasterPoster()
SCALED = _Scaled()
# Saves masters time and is made for what is added from now on: no gap that has to be filled.
CHECKED_SHOT = _CheckedShot()
# What is made from another comes after it.
DERIVATIVES: tuple[Derivative, ...] = (PREVIEW, POSTER, MASTER, MASTER_POSTER, SCALED)
