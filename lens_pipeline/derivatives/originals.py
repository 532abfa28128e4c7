"""The files of generations themselves, as far as the store has them."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import ORIGINALS, SAVED, Original, primary
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.history import RUN_FAILED, DerivativeStatus, State

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


def unfinished_originals(
    pipeline: Pipeline, original: Original, limit: int
) -> list[DerivativeStatus]:
    """Those that a run was to keep and did not, and that the run of a preview will not keep.

    Originals of an older library are left alone: no run was to keep them.
    """
    now = pipeline.catalog.now()
    keys = pipeline.log.unmade(original.asset, now - _LOOK_BACK)
    if not keys:
        return []
    rows = usable(list(pipeline.catalog.finished(original.kind, keys).values()))
    pictures = assess(pipeline, primary(original.kind), rows)
    # Of others, the next run of the picture keeps it.
    settled = {status.id: status.state for status in pictures if status.is_settled}
    return [
        status
        for status in assess(pipeline, original, rows)
        if status.id in settled
        and status.is_missing
        and status.is_due(now)
        # What could not be downloaded for the picture has no failure of its own.
        and (settled[status.id] is State.READY or status.error_class not in (None, RUN_FAILED))
    ][:limit]


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
