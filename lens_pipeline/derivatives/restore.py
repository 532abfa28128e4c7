"""How the original of a row that is gone is taken out of its grace, or recorded if that is back.

The application's tables are not written.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import dagster as dg

from lens_pipeline.catalog.rows import Generation, Kind, UnusableRow
from lens_pipeline.core.locks import held, partition_lock
from lens_pipeline.derivatives.originals import content_facts, original_metadata
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import ORIGINALS, SAVED
from lens_pipeline.derivatives.retry import retry
from lens_pipeline.derivatives.status import assess
from lens_pipeline.errors import LensError
from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.reader import number, text
from lens_pipeline.event_log.tags import OUTCOME_TAG
from lens_pipeline.storage.object_store import Fetched


class NotRestored(LensError):
    """The message says why."""


@dataclass(frozen=True, slots=True)
class RestoredOriginal:
    """What the application needs to insert the row again."""

    id: str
    type: Kind
    user_id: str | None
    finished_at: dt.datetime | None
    bytes: int
    sha256: str
    path: str
    """The object key, which may be the row's `asset_url`."""
    row: str
    """`gone`, `unfinished`, or `recorded`: files are made of this original from now on.

    `extra`: the store has no original that the pipeline wrote, but further results of its task.
    """

    @property
    def name(self) -> str:
        """Of the copy."""
        return PurePosixPath(self.path).name


def restore(
    pipeline: Pipeline, instance: dg.DagsterInstance, row_id: str, directory: Path
) -> RestoredOriginal:
    """Keep the original, and copy it to `directory`. Raises NotRestored, DerivativeError."""
    key = pipeline.catalog.canonical_id(Kind.PHOTO, row_id)
    locks = {partition_lock(original.asset, key) for original in ORIGINALS.values()}
    # The nightly deletion must see this, or have ended.
    with held(pipeline.endpoints.dagster_url, locks) as ours:
        if ours != locks:
            raise NotRestored("a run or the nightly deletion has it in work: try again in a minute")
        kind, facts = _kept(pipeline, key)
        path = str(facts["removed"])
        if pipeline.store.stat(path) is None:
            raise NotRestored(f"its original {path} is gone from the store")
        # Before it is read: it must not be deleted meanwhile.
        instance.report_runless_asset_event(
            dg.AssetObservation(
                asset_key=ORIGINALS[kind].asset,
                partition=key,
                metadata={"restored": path},
                tags={OUTCOME_TAG: ObservationKind.RESTORED.value},
            )
        )
    fetched = pipeline.store.read_into(path, directory / PurePosixPath(path).name)
    if facts.get("sha256", fetched.sha256) != fetched.sha256:
        raise NotRestored(f"{path} has other bytes than were stored")
    rows = [row for one in ORIGINALS for row in pipeline.catalog.finished(one, [key]).values()]
    row = next((row for row in rows if not isinstance(row, UnusableRow)), None)
    if ORIGINALS[kind].is_extra(path):
        state = "extra"
    elif isinstance(row, Generation):
        _record(pipeline, instance, row, path, fetched, content_facts(facts))
        state = "recorded"
    else:
        state = "unfinished" if pipeline.catalog.existing(kind, [key]) else "gone"
    at = number(facts.get("finished_at"))
    return RestoredOriginal(
        id=key,
        type=kind,
        user_id=text(facts.get("user_id")),
        finished_at=dt.datetime.fromtimestamp(at, dt.UTC) if at is not None else None,
        bytes=fetched.bytes,
        sha256=fetched.sha256,
        path=path,
        row=state,
    )


def _kept(pipeline: Pipeline, key: str) -> tuple[Kind, dict]:
    """The removal that keeps it. Raises NotRestored."""
    for kind, original in ORIGINALS.items():
        kept = pipeline.log.kept_removals(original.asset, keys=[key], restored=True)
        if key in kept:
            return kind, kept[key]
    is_known = pipeline.catalog.existing(Kind.PHOTO, [key]) or any(
        pipeline.log.histories(original.asset, [key]) for original in ORIGINALS.values()
    )
    if is_known:
        raise NotRestored("no original of it is to be deleted, so none can be restored")
    raise NotRestored("no generation has this id, and none had it")


def _record(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    row: Generation,
    path: str,
    fetched: Fetched,
    facts: dict,
) -> None:
    """As that of the row as it is now, whatever its link; failures by a dead link are forgotten."""
    original = ORIGINALS[row.kind]
    (status,) = assess(pipeline, original, [row])
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key=original.asset,
            partition=row.id,
            description="Restored: kept when its row was gone, which is back.",
            metadata=original_metadata(pipeline.store, row, path, SAVED, fetched, facts),
            tags=original.materialization_tags(row, status, pipeline.settings),
        )
    )
    retry(pipeline, instance, [row.id])
