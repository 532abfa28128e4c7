"""The files of generations themselves, as far as the store has them."""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lens_pipeline.catalog.rows import Generation, Kind, Row
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import ORIGINALS, SAVED, Original, primary
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.history import RUN_FAILED, DerivativeStatus, History, State
from lens_pipeline.event_log.tags import EXTRA_TAG
from lens_pipeline.storage.object_store import Fetched, ObjectStore, is_object_key

if TYPE_CHECKING:
    import dagster as dg

# Longer than the longest pause between two attempts.
_LOOK_BACK = dt.timedelta(days=3)
# In which the original of a new row is saved, and after which it is late no longer but lost: links
# of most providers expire earlier.
_IN_TIME, _IN_VAIN = dt.timedelta(hours=1), dt.timedelta(days=14)
# In metadata, besides size and hash.
CONTENT_FACTS = ("content_type", "width", "height", "duration_seconds", "extra_files", "c2pa")
# A count of a million rows takes 40 s of processor time, a third of what their statuses take.
_PAGE = 5000


@dataclass(frozen=True, slots=True)
class StoredOriginal:
    """An object of the store; `sha256` is in hex."""

    path: str
    bytes: int
    sha256: str
    is_ours: bool
    """Whether the pipeline wrote it: the application may replace its own objects."""
    metadata: Mapping[str, Any]
    """Of its materialization."""


@dataclass(frozen=True, slots=True)
class Unsaved:
    """Rows whose original is to be kept and is not in the store."""

    count: int = 0
    since: dt.datetime | None = None
    """When the first of them finished."""

    def plus(self, rows: Collection[Generation]) -> "Unsaved":
        times = (self.since, *(row.finished_at for row in rows))
        return Unsaved(self.count + len(rows), min(filter(None, times), default=None))


@dataclass(frozen=True, slots=True)
class UnsavedOriginals:
    late: Unsaved = Unsaved()
    """Of rows whose picture was made an hour to 14 days ago, by a run that was to keep them."""
    older: Unsaved = Unsaved()
    """The others, which `lens backfill --originals` saves, and dead letters."""


def count_unsaved(pipeline: Pipeline) -> Iterator[tuple[Mapping[Kind, UnsavedOriginals], bool]]:
    """Of each kind; yields after each page what was counted so far, and at last with True.

    Nothing is counted if none is kept. Raises CatalogError, sqlalchemy.exc.SQLAlchemyError.
    """
    kept = {} if pipeline.settings.keep_originals == "never" else ORIGINALS
    found = dict.fromkeys(kept, UnsavedOriginals())
    until = pipeline.catalog.now() - _IN_TIME
    since = until + _IN_TIME - _IN_VAIN
    for kind, original in kept.items():
        failed = set(pipeline.log.unmade(original.asset, since))
        late = older = Unsaved()
        for page in pipeline.catalog.all_finished(kind, _PAGE):
            rows = _unsaved(pipeline, original, usable(page), until)
            ids = _late(pipeline, original, [r for r in rows if r.id in failed], since, until)
            late = late.plus([row for row in rows if row.id in ids])
            older = older.plus([row for row in rows if row.id not in ids])
            found = {**found, kind: UnsavedOriginals(late, older)}
            yield found, False
    yield found, True


def _unsaved(
    pipeline: Pipeline, original: Original, rows: Sequence[Row], until: dt.datetime
) -> list[Generation]:
    """Those that finished before `until` and do not lie in the store anyway."""
    due = [
        row
        for row in rows
        if isinstance(row, Generation)
        and not is_object_key(row.asset_url)
        and (row.finished_at is None or row.finished_at < until)
    ]
    saved = pipeline.log.revisions(original.asset, [row.id for row in due])
    return [row for row in due if saved.get(row.id) != original.revision_of(row.asset_url)]


def _late(
    pipeline: Pipeline,
    original: Original,
    rows: Sequence[Generation],
    since: dt.datetime,
    until: dt.datetime,
) -> set[str]:
    """Ids of rows whose picture was made, and which a run then was to make and to keep.

    A run of originals alone is for an older library. What was not kept by a run before the last
    success was not to be kept by the settings.
    """
    if not rows:
        return set()
    picture = primary(original.kind)
    made = [s.id for s in assess(pipeline, picture, rows) if s.state is State.READY]
    pictures, originals = (pipeline.log.histories(one.asset, made) for one in (picture, original))

    def is_late(key: str) -> bool:
        runs = {plan.run_id for plan in pictures[key].planned}
        history = originals.get(key, History())
        last = history.materialized.event_id if history.materialized else 0
        return any(
            plan.run_id in runs and plan.event_id > last and plan.at and since <= plan.at < until
            for plan in history.planned
        )

    return {key for key in made if is_late(key)}


def in_words(found: Mapping[Kind, UnsavedOriginals]) -> str:
    """For `lens status` and `lens doctor`."""
    told = [
        f"{one.count:,} of {text}, the first of {one.since:%Y-%m-%d %H:%M} UTC"
        if one.since
        else f"{one.count:,} of {text}"
        for kind, both in found.items()
        for one, text in ((both.late, f"new {kind}s"), (both.older, f"older {kind}s"))
        if one.count
    ]
    if not told:
        return "every one is saved" if found else "none is kept: LENS_KEEP_ORIGINALS=never"
    return f"not saved: {'; '.join(told)}: `lens backfill --originals` saves them"


def content_facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of an original tell of its content and of what was kept with it."""
    return {name: metadata[name] for name in CONTENT_FACTS if name in metadata}


def original_metadata(
    store: ObjectStore,
    row: Generation,
    path: str | None,
    kept: str,
    fetched: Fetched,
    facts: Mapping[str, Any],
) -> "dict[str, dg.MetadataValue | str | int | float]":
    """Of a materialization; `facts`: of the content."""
    # Commands that only count originals do without Dagster.
    import dagster as dg

    host = source_host(row.asset_url)
    at = row.finished_at
    return {
        # Shown in this order.
        **{name: facts[name] for name in facts if name == "links"},
        **({"path": path, "dagster/uri": store.uri(path)} if path else {}),
        "kept": kept,
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        **facts,
        "user_id": row.user_id,
        **({"finished_at": dg.MetadataValue.timestamp(at)} if at else {}),
        **({"source_host": host} if host else {}),
        "revision": ORIGINALS[row.kind].revision_of(row.asset_url),
    }


def stored_originals(
    pipeline: Pipeline, kind: Kind, sources: Mapping[str, str]
) -> dict[str, StoredOriginal]:
    """Those of the generations whose id and `asset_url` is in `sources`, by id; two queries."""
    original = ORIGINALS[kind]
    latest = pipeline.log.latest(original.asset, sources) if sources else {}
    found = {key: _stored(original, sources[key], facts) for key, facts in latest.items()}
    return {key: stored for key, stored in found.items() if stored is not None}


def recorded_facts(pipeline: Pipeline, row: Generation) -> Mapping[str, Any]:
    """The metadata of the original that the row names, whether it is kept or not; else empty."""
    original = ORIGINALS[row.kind]
    facts = pipeline.log.latest(original.asset, [row.id]).get(row.id, {})
    return facts if facts.get("revision") == original.revision_of(row.asset_url) else {}


@dataclass(frozen=True, slots=True)
class ExtraFile:
    """A further result of a generation's task, which its row does not name."""

    n: int
    """Its place among the results, from 2."""
    revision: str
    """Of the task's first result."""
    url: str | None = None
    """None: no longer known."""
    path: str | None = None
    """None: it is not in the store."""
    bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    error: str | None = None
    """Why the last attempt to keep it failed."""

    @property
    def facts(self) -> dict[str, str | int]:
        """For metadata, which people see: without the query of its link, which may be a secret."""
        host = source_host(self.url) if self.url and not self.path else None
        facts = asdict(self) | {"url": None, "host": host}
        return {name: value for name, value in facts.items() if value is not None}


def extra_files(
    pipeline: Pipeline, kind: Kind, keys: Collection[str]
) -> dict[str, list[ExtraFile]]:
    """Of the generations with any, by id: of the last task that the pipeline saw the end of."""
    asset = ORIGINALS[kind].asset
    told = pipeline.log.extra_urls(asset, keys) if keys else {}
    made = pipeline.log.latest(asset, keys) if keys else {}
    found = {key: _extra(told.get(key), made.get(key, {})) for key in keys}
    return {key: files for key, files in found.items() if files}


def _extra(told: Mapping[str, Any] | None, made: Mapping[str, Any]) -> list[ExtraFile]:
    recorded = _listed(made)
    if told is None:
        return recorded
    revision = told["revision"]
    listed = sorted([*_listed(told), *recorded], key=lambda one: one.path is not None)
    kept = {one.n: one for one in listed if one.revision == revision}
    return [
        replace(kept.get(n, ExtraFile(n, revision)), url=url)
        for n, url in enumerate(told["extra_urls"], start=2)
    ]


def _listed(facts: Mapping[str, Any]) -> list[ExtraFile]:
    names = ExtraFile.__dataclass_fields__
    return [
        ExtraFile(**{name: one[name] for name in names.keys() & one.keys()})
        for one in facts.get("extra_files", [])
    ]


def extra_observation(row: Generation, files: Sequence[ExtraFile]) -> "dg.AssetObservation":
    """It tells of all further results of its task, and of those that are kept without the original.

    The UI shows only their hosts: see `shown_events`.
    """
    import dagster as dg

    kept = [one.facts for one in files if one.path]
    return dg.AssetObservation(
        asset_key=ORIGINALS[row.kind].asset,
        partition=row.id,
        description=f"Its task had {len(files)} further results.",
        metadata={
            "extra_urls": dg.MetadataValue.json([one.url for one in files]),
            "revision": files[0].revision,
            "user_id": row.user_id,
            **({"extra_files": dg.MetadataValue.json(kept)} if kept else {}),
        },
        tags={EXTRA_TAG: files[0].revision},
    )


def to_keep(pipeline: Pipeline, files: Iterable[ExtraFile]) -> bool:
    """Whether any is still to be stored."""
    keeps = pipeline.settings.keep_originals != "never"
    return keeps and any(one.path is None and one.url for one in files)


def source_host(source: str) -> str | None:
    """None: it lies in the store, or its address makes no sense."""
    try:
        return None if is_object_key(source) else urlsplit(source.strip()).hostname
    except ValueError:
        return None


def unfinished_originals(
    pipeline: Pipeline, original: Original, limit: int
) -> list[DerivativeStatus]:
    """Those that a run was to keep and did not, and that the run of a preview will not keep.

    Also those with further results that are still to be kept. Originals of an older library are
    left alone: no run was to keep them.
    """
    now = pipeline.catalog.now()
    keys = pipeline.log.unmade(original.asset, now - _LOOK_BACK)
    if not keys:
        return []
    rows = usable(list(pipeline.catalog.finished(original.kind, keys).values()))
    pictures = assess(pipeline, primary(original.kind), rows)
    # Of others, the next run of the picture keeps it.
    settled = {status.id: status.state for status in pictures if status.is_settled}
    extra = extra_files(pipeline, original.kind, settled)

    def is_unfinished(status: DerivativeStatus) -> bool:
        if status.state is State.READY:
            return to_keep(pipeline, extra.get(status.id, []))
        # What could not be downloaded for the picture has no failure of its own.
        is_own = settled[status.id] is State.READY or status.error_class not in (None, RUN_FAILED)
        return status.is_missing and status.is_due(now) and is_own

    found = [s for s in assess(pipeline, original, rows) if s.id in settled and is_unfinished(s)]
    return found[:limit]


def _stored(original: Original, source: str, facts: Mapping[str, Any]) -> StoredOriginal | None:
    """None: it is not in the store, or of another source."""
    if "path" not in facts or facts.get("revision") != original.revision_of(source):
        return None
    return StoredOriginal(
        path=str(facts["path"]),
        bytes=int(facts["bytes"]),
        sha256=str(facts["sha256"]),
        is_ours=facts.get("kept") == SAVED,
        metadata=dict(facts),
    )
