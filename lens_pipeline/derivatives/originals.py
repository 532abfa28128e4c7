"""The files of generations themselves, as far as the store has them."""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import ORIGINALS, SAVED, Original, primary
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.history import RUN_FAILED, DerivativeStatus, State
from lens_pipeline.storage.object_store import is_object_key

# Longer than the longest pause between two attempts.
_LOOK_BACK = dt.timedelta(days=3)


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


def stored_originals(
    pipeline: Pipeline, kind: Kind, sources: Mapping[str, str]
) -> dict[str, StoredOriginal]:
    """Those of the generations whose id and `asset_url` is in `sources`, by id; two queries."""
    original = ORIGINALS[kind]
    latest = pipeline.log.latest(original.asset, sources) if sources else {}
    found = {key: _stored(original, sources[key], facts) for key, facts in latest.items()}
    return {key: stored for key, stored in found.items() if stored is not None}


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
    names = ExtraFile.__dataclass_fields__
    recorded = [
        ExtraFile(**{name: one[name] for name in names.keys() & one.keys()})
        for one in made.get("extra_files", [])
    ]
    if told is None:
        return recorded
    revision = told["revision"]
    kept = {one.n: one for one in recorded if one.revision == revision}
    return [
        replace(kept.get(n, ExtraFile(n, revision)), url=url)
        for n, url in enumerate(told["extra_urls"], start=2)
    ]


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
