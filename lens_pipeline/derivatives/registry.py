"""The one list of what is made of which row; how it is made is in `defs/assets`.

Read `registry.DERIVATIVES` when needed; keep no copy of it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from lens_pipeline.catalog.rows import (
    ENLARGED,
    Generation,
    Kind,
    MasterVideo,
    ProjectAsset,
    Row,
    ScaledVideo,
    Shot,
)
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.event_log.tags import MAX_RUNTIME_TAG, REVISION_TAG, SOURCE_TAG
from lens_pipeline.settings import Settings
from lens_pipeline.storage.object_store import is_object_key

if TYPE_CHECKING:
    from lens_pipeline.derivatives.pipeline import Pipeline

QUEUE_TAG = "dagster-celery/queue"
PREVIEWS = "previews"
# Encodes take minutes: they must not delay a preview.
MASTERS = "masters"
QUEUES = (PREVIEWS, MASTERS)
# Of runs that a command executes itself: they take no slot of a worker.
LOCAL = "local"

# Waits for partition locks, transfers and queries, besides the work on files.
_RUN_SECONDS = 7200
# For a second of video. Encoding 2160p on one core takes 3 to 5 s, and a master may be encoded
# twice; decoding it takes 1 s.
_ENCODE_PACE, _DECODE_PACE = 10, 2

REPORT_ASSET = "daily_report"
# Days with a report: a set of all days would show those without files as missing.
REPORT_DAYS = "report_days"
# Keys of what is large enough to be stored in parts.
LARGE_OBJECTS = re.compile(
    r"masters/[^/]+/master_[^/]+_[0-9a-f]{12}\.mp4"
    r"|scaled/[^/]+/[^/]+_[0-9a-f]{12}\.mp4"
    r"|cache/shots/[0-9a-f]{64}\.mp4"
    r"|[^/]+/playable/[^/]+_[0-9a-f]{12}\.mp4"
    r"|[^/]+/originals/[^/]+_[0-9a-f]{12}(_\d{1,3})?\.[a-z0-9]+"
)

# WebP method. At the same SSIM, method 2 takes 28 ms less of about 2 s, but 10 % more bytes.
WEBP_EFFORT = 4

# Parameters that are settings.
PARAMETER_SETTINGS = {
    "edge": "preview_edge",
    "quality": "preview_quality",
    "sizes": "preview_sizes",
    "compatibility": "master_compatibility",
    "loudness": "master_loudness",
}
# What versions without the setting did: it is no part of a revision.
_EARLIER_VALUES = {"compatibility": "source", "loudness": "off"}
_OF_PICTURES = ("edge", "quality")
# What versions up to 0.3 used by default; their events do not say what they were made from.
_EARLIER_CODE, _EARLIER_EDGE, _EARLIER_QUALITY, _EARLIER_EFFORT = "1", 768, 80, 4
# Others that were set before an upgrade are not known any more: what they made is made anew.
_USUAL_EDGES = (256, 320, 480, 512, 600, 640, 720, 800, 960, 1024, 1080, 1200, 1280, 1536, 2048)
# After the source of a shot.
_QUIET = " quiet"
# What became of an original: it is ours, or an object of the application's, or not in the store.
SAVED, RECORDED, NOT_KEPT = "saved", "recorded", "not kept"

Parameters = Mapping[str, float | str | None]
R = TypeVar("R", bound=Row)


def revision(sources: list[str], key: str, parameters: Parameters, code_version: str) -> str:
    """12 hex digits of a SHA-256; `sources`: ordered identities of what it is made from."""
    return _digest(sources, key, parameters, code_version)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


class Revisions(NamedTuple):
    """Object keys of all revisions of one output begin with `prefix` and match `name` as a whole:
    an id may begin with another one.
    """

    prefix: str
    name: re.Pattern[str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Derivative(Generic[R]):
    """An output of every finished row of one kind."""

    asset: str
    description: str
    kind: Kind
    partition_set: str
    upstream: str | None
    job: str
    queue: str
    stem: Callable[[R], str]  # object key without revision and extension
    extension: str | None  # None: nothing is stored
    is_versioned: bool = True  # whether the object key has the revision
    code_version: str = "1"
    group: str
    sensor: str | None = None  # requests it for new rows
    sensor_seconds: int = 1
    most_in_run: int | None = None  # partitions; None: LENS_BATCH_SIZE
    run_size: int | None = None  # partitions of one film, whatever LENS_BATCH_SIZE is
    pace: int = 0  # seconds of work for a second of LENS_MAX_MASTER_SECONDS, at the most
    op: str  # which assets of one set may share
    made_from: "Derivative | None" = None
    source_row: Callable[[R], Row | None] = lambda _: None
    # Identities of what it is made from, besides `made_from`.
    sources: Callable[[R], list[str]] = lambda _: []
    settings: tuple[str, ...] = ()  # names of parameters that are settings
    edge: int | None = None  # longest edge in pixels; None: LENS_PREVIEW_EDGE
    form: Callable[[R], Parameters] = lambda _: {}  # parameters in the row; not for pictures
    waits_for: Callable[[R], str | None] = lambda _: None  # what the row lacks, in words
    follows: "Derivative[R] | None" = None  # of the same row, which is made first
    setting: str | None = None  # of `Settings`: it is made only while that is true
    priority: int = 0  # added to that of its runs

    def revision(self, row: R, settings: Settings, upstream: str | None = None) -> str:
        """The revision of the row as it is now; `upstream`: of the `made_from` that there is."""
        source = self.source_row(row)
        if self.made_from is not None and source is not None and upstream is None:
            upstream = self.made_from.revision(source, settings)
        return self._revision(row, upstream, self._parameters(row, settings), self.code_version)

    def _revision(
        self, row: R, upstream: str | None, parameters: Parameters, code_version: str
    ) -> str:
        sources = self.sources(row) if self.made_from is None else [upstream or ""]
        key = self.stem(row) if self.is_versioned else self.object_key(row, "")
        return revision(sources, key, parameters, code_version)

    def source(self, row: R) -> str:
        """A hash of what the row names and asks for, without settings and code."""
        source = self.source_row(row)
        upstream = self.made_from.source(source) if self.made_from and source else None
        return _digest(self.sources(row), upstream, self.stem(row), self.form(row))

    def why_off(self, pipeline: "Pipeline") -> str | None:
        """Why none is made; None: it is. Raises CatalogError."""
        if self.setting and not getattr(pipeline.settings, self.setting):
            return f"LENS_{self.setting.upper()} is false."
        return pipeline.catalog.lack_of(self.kind)

    def is_on(self, pipeline: "Pipeline") -> bool:
        return self.why_off(pipeline) is None

    def adopted_revision(self, row: R) -> str | None:
        """Of a master, or of what is made from one, that an older system made; None: of others.

        Its recipe is not known: it stays up to date, whatever becomes of settings, code and the
        shots' files, until the row names other shots.
        """
        master = row if isinstance(row, MasterVideo) else self.source_row(row)
        if not isinstance(master, MasterVideo):
            return None
        return _digest("adopted", row.id, [(shot.asset_id, shot.quiet) for shot in master.shots])

    def chosen(self, settings: Settings) -> set[str]:
        """The parameters, as `name-value`, that the user has set: a new default counts as none."""
        return {
            word
            for name, word in self._words(settings).items()
            if PARAMETER_SETTINGS[name] in settings.model_fields_set
        }

    def parameters_of(
        self, row: R, revision: str, tag: str | None, settings: Settings
    ) -> AbstractSet[str] | None:
        """Those of a materialization, as `name-value`; None: it is not of the row's source.

        `tag`: its SOURCE_TAG.
        """
        if tag is None:
            earlier = self._earlier(row, settings)
            words = next((words for one, words in earlier if one == revision), None)
        else:
            source, *recorded = tag.split("_")
            words = set(recorded) if source == self.source(row) else None
        if words is None:
            return None
        known = {word.partition("-")[0] for word in words}
        missing = (name for name in self.settings if name in _EARLIER_VALUES.keys() - known)
        return words | {f"{name}-{_EARLIER_VALUES[name]}" for name in missing}

    def _earlier(self, row: R, settings: Settings) -> Iterator[tuple[str, set[str]]]:
        """Revisions that versions up to 0.3 may have given, with the parameters of each.

        A later time of the event would not do: some hosts change a file and not the row's time.
        """
        upstreams: Iterable[str | None] = [None]
        source = self.source_row(row)
        if self.made_from is not None and source is not None:
            upstreams = [one for one, _ in self.made_from._earlier(source, settings)]
        parameters: list[Parameters] = [self.form(row)]
        if self.extension == "webp":
            # The likely ones first.
            edges = dict.fromkeys([_EARLIER_EDGE, self.picture_edge(settings)])
            likely = dict.fromkeys([_EARLIER_QUALITY, settings.preview_quality])
            qualities = dict.fromkeys([*likely, *range(1, 101)])
            pairs = [*product(qualities, edges), *product(likely, _USUAL_EDGES)]
            parameters = [
                {"edge": edge, "quality": quality, "effort": _EARLIER_EFFORT}
                for quality, edge in pairs
            ]
        for upstream, one in product(upstreams, parameters):
            words = {f"{name}-{one[name]}" for name in _OF_PICTURES if name in one}
            yield self._revision(row, upstream, one, _EARLIER_CODE), words

    def recipe(self, settings: Settings) -> str | None:
        """Differs if equal generations get another revision; None: not of generations."""
        if self.kind not in (Kind.PHOTO, Kind.VIDEO):
            return None
        row = Generation("id", "user", self.kind, "source", None)
        return self.revision(cast("R", row), settings)

    def object_key(self, row: R, revision: str) -> str:
        """Raises NotImplementedError: nothing is stored."""
        if self.extension is None:
            raise NotImplementedError(f"a {self.asset} stores nothing of its own")
        version = f"_{revision}" if self.is_versioned else ""
        return f"{self.stem(row)}{version}.{self.extension}"

    def revisions_of(self, row_id: str, key: str) -> Revisions | None:
        """The revisions of the object `key`; None: it is no versioned key of this row."""
        stem, rest = rf"(.+[/_]{re.escape(row_id)})", rf"_[0-9a-f]{{12}}\.{self.extension}"
        found = re.fullmatch(stem + rest, key)
        if "sizes" in self.settings:
            # All sizes of the one revision.
            stem, rest = rf"(.+/{re.escape(row_id)}_{self.asset})", rf"_[0-9]+\.{self.extension}"
            found = re.fullmatch(rf"{stem}\.{self.extension}", key)
        if found is None:
            return None
        return Revisions(f"{found[1]}_", re.compile(re.escape(found[1]) + rest))

    def picture_edge(self, settings: Settings) -> int:
        return self.edge or settings.preview_edge

    def picture_sizes(self, settings: Settings) -> tuple[int, ...]:
        """Longest edges of more pictures."""
        return settings.preview_sizes if "sizes" in self.settings else ()

    def batch_size(self, settings: Settings) -> int:
        return self.run_size or min(self.most_in_run or settings.batch_size, settings.batch_size)

    def run_seconds(self, settings: Settings) -> int:
        """The limit of a run. What makes no progress is ended much earlier."""
        files = self.batch_size(settings)
        # What is done when it ends is kept: parts of one film need not all be as long as that.
        films = 1 if self.run_size else files
        seconds = files * (settings.fetch_timeout_seconds + settings.render_timeout_seconds)
        return _RUN_SECONDS + ceil(seconds + films * self.pace * settings.max_master_seconds)

    @property
    def run_assets(self) -> tuple[str, ...] | None:
        """Assets to select in a run of `job`; None: all."""
        follows = self.made_from is not None and self.made_from.job == self.job
        return (self.asset,) if follows or self.upstream is None else None

    def materialization_tags(
        self, row: R, status: DerivativeStatus, settings: Settings
    ) -> dict[str, str]:
        """`event_log` reads the revision and the source; without the other tags Dagster's UI shows
        every partition as out of sync.
        """
        tags = {
            REVISION_TAG: status.revision,
            "dagster/data_version_is_user_provided": "true",
            "dagster/code_version": self.code_version,
        }
        if self.extension is not None:
            tags[SOURCE_TAG] = "_".join([self.source(row), *self._words(settings).values()])
        if self.upstream is not None:
            version = status.upstream or "INITIAL"
            if isinstance(row, Generation):
                version = ORIGINALS[row.kind].revision(row, settings)
            tags[f"dagster/input_data_version/{self.upstream}"] = version
            tags[f"dagster/input_event_pointer/{self.upstream}"] = "NULL"
        return tags

    def _parameters(self, row: R, settings: Settings) -> Parameters:
        values = self.setting_values(settings)
        new = {name: value for name, value in values.items() if value != _EARLIER_VALUES.get(name)}
        if self.extension == "webp":
            return {"edge": self.picture_edge(settings), **new, "effort": WEBP_EFFORT}
        return {**self.form(row), **new}

    def _words(self, settings: Settings) -> dict[str, str]:
        """Parameters that are settings, as `name-value`, by name."""
        return {name: f"{name}-{value}" for name, value in self.setting_values(settings).items()}

    def setting_values(self, settings: Settings) -> dict[str, float | str]:
        """Parameters that are settings, by name; several values are joined by dots."""
        names = [name for name in self.settings if name != "edge" or self.edge is None]
        values = {name: getattr(settings, PARAMETER_SETTINGS[name]) for name in names}
        return {
            name: ".".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != ()
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Original(Derivative[Generation]):
    """The file of a generation itself, kept in the store.

    Its key ends as its content says. Its revision tells of its source alone: masters know no more
    of their shots.
    """

    def revision(self, row: Generation, settings: Settings, upstream: str | None = None) -> str:
        if settings.keep_originals == "never" and not is_object_key(row.asset_url):
            return revision([row.asset_url], NOT_KEPT, {}, self.code_version)
        return self.revision_of(row.asset_url)

    def revision_of(self, source: str) -> str:
        """Of what is in the store."""
        return revision([source], "", {}, self.code_version)

    def recipe(self, settings: Settings) -> str | None:
        return None

    def revisions_of(self, row_id: str, key: str) -> Revisions | None:
        """Further results of its task included."""
        rest = r"[0-9a-f]{12}(_\d{1,3})?\.[a-z0-9]+"
        found = re.fullmatch(rf"(.+/originals/{re.escape(row_id)}_){rest}", key)
        return found and Revisions(found[1], re.compile(re.escape(found[1]) + rest))

    def is_extra(self, key: str) -> bool:
        """Whether the object is a further result of a task."""
        return re.search(r"_[0-9a-f]{12}_\d{1,3}\.[a-z0-9]+$", key) is not None

    def key(self, row: Generation, revision: str, extension: str, n: int = 1) -> str:
        """`n`: which result of its task it is."""
        number = f"_{n}" if n > 1 else ""
        return f"{self.stem(row)}_{revision}{number}{extension}"


def _master_stem(row: MasterVideo) -> str:
    return f"masters/{row.project_id}/master_{row.id}"


def _master_sources(row: MasterVideo) -> list[str]:
    shots = [_shot_source(shot) + _QUIET * shot.quiet for shot in row.shots]
    return [*shots, row.problem or ""]


def _shot_source(shot: Shot) -> str:
    return shot.source or shot.problem or shot.waits or ""


def _master_waits(row: MasterVideo) -> str | None:
    if any(shot.problem for shot in row.shots):
        return None
    return next((shot.waits for shot in row.shots if shot.waits), None)


def _scaled_form(row: ScaledVideo) -> Parameters:
    form: dict[str, float | str | None] = {
        "start": row.start_seconds,
        "end": row.end_seconds,
        "width": row.width,
        "height": row.height,
    }
    # Rows without keep the revision that they had before there were these columns.
    if row.fill is not None:
        form["fill"] = row.fill + ENLARGED * row.enlarged
    if row.focus is not None:
        form["focus"] = "{},{}".format(*row.focus)
    return form


PREVIEW = Derivative[Generation](
    asset="preview",
    description="WebP preview of one photo: upright, sRGB, at most LENS_PREVIEW_EDGE pixels.",
    kind=Kind.PHOTO,
    partition_set="photos",
    upstream="photo_generation",
    job="previews",
    op="render_previews",
    queue=PREVIEWS,
    stem=lambda row: f"{row.user_id}/previews/{row.id}_preview",
    extension="webp",
    settings=(*_OF_PICTURES, "sizes"),
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
    op="render_posters",
    queue=PREVIEWS,
    stem=lambda row: f"{row.user_id}/posters/{row.id}_poster",
    extension="webp",
    settings=(*_OF_PICTURES, "sizes"),
    code_version="2",
    is_versioned=False,
    group="derivatives",
    sensor="new_videos",
    sources=lambda row: [row.asset_url],
)


def _of_video(
    asset: str, description: str, *, job: str, setting: str, **fields: Any
) -> Derivative[Generation]:
    """Made after the poster, and after all other work."""
    return Derivative[Generation](
        asset=asset,
        description=description,
        kind=Kind.VIDEO,
        partition_set="videos",
        upstream="video_generation",
        job=job,
        op=f"render_{job}",
        # Encodes must not delay a preview.
        queue=MASTERS,
        extension="mp4",
        group="derivatives",
        sensor=f"new_{job}",
        sources=lambda row: [row.asset_url],
        # Then the original is in the store, as a rule.
        follows=POSTER,
        setting=setting,
        priority=-10,
        **fields,
    )


CLIP = _of_video(
    "clip",
    "Hover clip of one video: 3 to 4 s from its poster's frame on, without sound, at most 480"
    " pixels and 300 KB.",
    job="clips",
    setting="clips",
    stem=lambda row: f"{row.user_id}/previews/{row.id}_preview",
    is_versioned=False,
    sensor_seconds=5,
    # A master requested meanwhile waits for the run.
    most_in_run=10,
)
PLAYABLE = _of_video(
    "playable_video",
    "Copy of one video as H.264 and AAC in an MP4 with its index in front, if not all browsers play"
    " the video itself; else nothing is stored.",
    job="playable_videos",
    setting="playable",
    stem=lambda row: f"{row.user_id}/playable/{row.id}",
    sensor_seconds=10,
    most_in_run=5,
    pace=_ENCODE_PACE,
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
    settings=("compatibility", "loudness"),
    group="masters",
    sensor="new_masters",
    sensor_seconds=2,
    # A run that fails affects no other.
    most_in_run=1,
    pace=_ENCODE_PACE,
    # Dagster skips a second step when the first does nothing.
    op="join_masters",
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
    settings=_OF_PICTURES,
    group="masters",
    most_in_run=1,
    op="join_masters",
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
    op="scale_masters",
    queue=MASTERS,
    # One without a master is never made.
    stem=lambda row: f"scaled/{row.master.project_id if row.master else ''}/{row.id}",
    extension="mp4",
    group="masters",
    sensor="new_scaled",
    sensor_seconds=3,
    # Of one master, they share a decode, whatever LENS_BATCH_SIZE is.
    run_size=50,
    pace=_ENCODE_PACE,
    made_from=MASTER,
    source_row=lambda row: row.master,
    form=_scaled_form,
)
# Each comes after its `made_from` and what it `follows`.
DERIVATIVES: tuple[Derivative, ...] = (
    PREVIEW,
    POSTER,
    CLIP,
    PLAYABLE,
    MASTER,
    MASTER_POSTER,
    SCALED,
)

# Only saves later masters time: no gap is filled and no status is shown.
CHECKED_SHOT = Derivative[ProjectAsset](
    asset="checked_shot",
    description="Whether a project's asset can be a shot: saves its masters decoding it.",
    kind=Kind.SHOT,
    partition_set="shots",
    upstream="video_generation",
    job="shot_checks",
    op="check_shots",
    queue=MASTERS,
    stem=lambda row: row.id,
    extension=None,
    group="masters",
    sensor="new_shots",
    sensor_seconds=5,
    # A master requested meanwhile waits for the run.
    most_in_run=5,
    pace=_DECODE_PACE,
    sources=lambda row: [_shot_source(row.shot)],
    # An asset may be a picture: that is no fault.
    waits_for=lambda row: row.shot.waits or row.shot.problem,
)


def _original(asset: str, picture: Derivative[Generation]) -> Original:
    """It is kept in the run of its picture."""
    return Original(
        asset=asset,
        description=f"A finished {picture.kind}: a row of `generations` with type {picture.kind},"
        " and its original file.",
        kind=picture.kind,
        partition_set=picture.partition_set,
        upstream=None,
        job=picture.job,
        op=picture.op,
        queue=picture.queue,
        stem=lambda row: f"{row.user_id}/originals/{row.id}",
        extension=None,
        group="application",
    )


PHOTO_ORIGINAL = _original("photo_generation", PREVIEW)
VIDEO_ORIGINAL = _original("video_generation", POSTER)
# They have no status of their own: it is that of the preview or poster.
ORIGINALS = {original.kind: original for original in (PHOTO_ORIGINAL, VIDEO_ORIGINAL)}


def entries() -> tuple[Derivative, ...]:
    return (*DERIVATIVES, CHECKED_SHOT, *ORIGINALS.values())


def switched_on(pipeline: "Pipeline") -> tuple[Derivative, ...]:
    return tuple(derivative for derivative in DERIVATIVES if derivative.is_on(pipeline))


def of_site(pipeline: "Pipeline") -> tuple[Derivative, ...]:
    """Those whose rows the site may have, switched on or not."""
    return tuple(entry for entry in DERIVATIVES if not pipeline.catalog.lack_of(entry.kind))


def backfill_schedules() -> dict[str, str]:
    """The job of each, by its name."""
    return {f"backfill_{derivative.job}": derivative.job for derivative in DERIVATIVES}


def by_sensor(sensor: str) -> Derivative | None:
    return next((entry for entry in entries() if entry.sensor == sensor), None)


def assets() -> tuple[str, ...]:
    return tuple(derivative.asset for derivative in DERIVATIVES)


def by_asset(asset: str) -> Derivative:
    """Raises KeyError."""
    return {derivative.asset: derivative for derivative in DERIVATIVES}[asset]


def kinds(derivatives: Iterable[Derivative] | None = None) -> tuple[Kind, ...]:
    """Of all derivatives, or of these."""
    chosen = DERIVATIVES if derivatives is None else derivatives
    return tuple(dict.fromkeys(derivative.kind for derivative in chosen))


def of_kind(*kinds: Kind) -> tuple[Derivative, ...]:
    return tuple(derivative for derivative in DERIVATIVES if derivative.kind in kinds)


def of_generations() -> tuple[Derivative, ...]:
    return of_kind(Kind.PHOTO, Kind.VIDEO)


def assets_of_set(partition_set: str) -> tuple[str, ...]:
    return tuple(entry.asset for entry in entries() if entry.partition_set == partition_set)


def primary(kind: Kind) -> Derivative:
    """Rows of a kind are listed and reported by it."""
    return of_kind(kind)[0]


def most_run_seconds(settings: Settings) -> int:
    return max(entry.run_seconds(settings) for entry in entries())


def run_tags(assets: Collection[str], settings: Settings) -> dict[str, str]:
    """The queue and the time limit of a run of `assets`."""
    made = [entry for entry in entries() if entry.asset in assets]
    if not made:
        return {QUEUE_TAG: MASTERS if REPORT_ASSET in assets else PREVIEWS}
    limit = max(entry.run_seconds(settings) for entry in made)
    return {QUEUE_TAG: made[0].queue, MAX_RUNTIME_TAG: str(limit)}
