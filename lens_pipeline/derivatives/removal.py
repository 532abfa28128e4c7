"""Deletes the objects of rows that are gone, and takes old keys out of the partition sets."""

import datetime as dt
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from lens_pipeline.core.locks import held, partition_lock
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.originals import CONTENT_FACTS
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import SAVED, Derivative, Original, primary
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.errors import DerivativeError, StoreUnavailable
from lens_pipeline.event_log.history import History, ObservationKind, State
from lens_pipeline.event_log.reader import text
from lens_pipeline.event_log.tags import KEPT_TAG, OUTCOME_TAG
from lens_pipeline.storage.object_store import ObjectStore

logger = logging.getLogger(__name__)

_PAGE = 500
# More missing rows than this share of a page look like a lost table...
_MOST_SHARE = 0.2
# ... unless they are few, and not the whole page.
_FEW = 20
_ROW_IS_GONE = "the application's row is gone"
# What a removal tells of the row, and of the file that it keeps.
_OF_ROW = ("user_id", "finished_at")
_TOLD = (*_OF_ROW, "bytes", "sha256", *CONTENT_FACTS)
# Originals that are deleted under their locks together, of which a server has some thousands: what
# rows use is read once for them, from whole tables.
_LOCKED = 100
# Partitions that one call cleans at about the most: a table may be lost by and by.
_MOST_CLEANED = 100


@dataclass(slots=True)
class Removal:
    """What one call of `remove_vanished` did."""

    cursor: str
    """Where the next call begins; empty: at the first partition."""
    looked_at: int = 0
    cleaned: int = 0
    """Partitions whose outputs were deleted."""
    kept: list[str] = field(default_factory=list)
    """Partitions whose object the store did not delete."""
    in_work: int = 0
    refused: str = ""
    """Why a page was left alone."""

    @property
    def left(self) -> int:
        return len(self.kept) + self.in_work

    def __str__(self) -> str:
        text = f"{self.looked_at} looked at, {self.cleaned} removed"
        if self.kept:
            few = ", ".join(self.kept[:5])
            text += f", {len(self.kept)} could not be deleted from the store: {few}"
        return f"{text}; {self.refused}" if self.refused else text


def remove_vanished(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    derivative: Derivative,
    after: str,
    *,
    seconds: float = 0.0,
    however_many: bool = False,
) -> Removal:
    """Delete the objects of partitions after `after` whose row is gone, for about `seconds`.

    Looks at partitions of the set and of the event log, because the set lacks retired keys.
    Partitions in flight are left for later. Raises CatalogError if rows cannot be read: no table
    looks empty, and of one that the site lacks no row is gone.
    """
    if pipeline.catalog.lack_of(derivative.kind):
        return Removal("")
    done = Removal(after)
    deadline = time.monotonic() + seconds
    while True:
        keys = pipeline.log.keys_after(
            derivative.asset, derivative.partition_set, done.cursor, _PAGE
        )
        _remove_page(pipeline, instance, derivative, keys, done, however_many=however_many)
        done.cursor = keys[-1] if len(keys) == _PAGE else ""
        is_over = done.cleaned >= _MOST_CLEANED or time.monotonic() >= deadline
        if is_over or not done.cursor:
            return done


def _remove_page(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    derivative: Derivative,
    keys: Sequence[str],
    done: Removal,
    *,
    however_many: bool,
) -> None:
    done.looked_at += len(keys)
    existing = pipeline.catalog.existing(derivative.kind, keys)
    gone = [key for key in keys if key not in existing]
    recorded = pipeline.log.histories(derivative.asset, gone)
    unclean = [key for key in gone if key in recorded and not _is_clean(derivative, recorded[key])]
    if not however_many and _too_many(len(unclean), len(existing)):
        done.refused = (
            f"{len(unclean)} of {len(unclean) + len(existing)} rows are missing: too many at once,"
            " nothing is deleted; if this is meant, run `lens remove-missing`"
        )
        return
    busy = {key for key in unclean if recorded[key].is_in_flight}
    kept = {key for key in unclean if key not in busy}
    done.in_work += len(busy)
    try:
        for key in sorted(kept):
            if _clean(pipeline, instance, derivative, key, recorded[key]):
                kept.remove(key)
                done.cleaned += 1
    except StoreUnavailable as error:
        # Each further object would be waited for as well.
        logger.warning("%s: the store is away: %s", derivative.asset, error)
    done.kept += sorted(kept)
    _delete_keys(pipeline, derivative.partition_set, set(gone) - busy - kept)


def _is_clean(derivative: Derivative, history: History) -> bool:
    """Of an original, the first removal since its row was there says when it is to be deleted."""
    is_known_gone = history.is_removed and not history.was_back
    return history.is_clean or (isinstance(derivative, Original) and is_known_gone)


def _too_many(missing: int, existing: int) -> bool:
    return missing > (max(_FEW, _MOST_SHARE * (missing + existing)) if existing else 1)


def _clean(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    derivative: Derivative,
    key: str,
    history: History,
) -> bool:
    """Delete the objects and record that; False if the store refuses. Raises StoreUnavailable."""
    facts = pipeline.log.latest(derivative.asset, [key]).get(key, {})
    path = None if history.is_removed else text(facts.get("path"))
    removal = removal_of(derivative.asset, key, str(path), _ROW_IS_GONE)
    try:
        if isinstance(derivative, Original):
            # Nothing can make it again: `delete_originals` comes later.
            removal = _kept_removal(pipeline, derivative, key, facts) or removal
        elif path is not None:
            delete_outputs(pipeline.store, derivative, key, path)
    except StoreUnavailable:
        raise
    except DerivativeError as error:
        logger.warning("%s %s: cannot delete %s: %s", derivative.asset, key, path, error)
        return False
    instance.report_runless_asset_event(removal)
    return True


def _kept_removal(
    pipeline: Pipeline, original: Original, key: str, facts: Mapping[str, Any]
) -> dg.AssetObservation | None:
    """It has what `lens restore` tells, as materializations of what is removed are pruned.

    None: the pipeline wrote nothing. Raises DerivativeError.
    """
    if not facts:
        # Its row was gone before, and back without a success.
        kept = pipeline.log.kept_removals(original.asset, keys=[key], restored=True)
        facts = kept.get(key) or _facts_of_unrecorded(pipeline, original, key)
    own = _own_objects(pipeline.store, original, key, facts)
    if not own:
        return None
    path = text(facts.get("path") or facts.get("removed"))
    names = _TOLD if path in own else (*_OF_ROW, "extra_files")
    told = {name: facts[name] for name in names if name in facts}
    if "finished_at" in told:
        told["finished_at"] = dg.MetadataValue.timestamp(told["finished_at"])
    path = path if path in own else own[-1]
    return removal_of(original.asset, key, path, _ROW_IS_GONE, is_kept=True, kept=SAVED, **told)


def _facts_of_unrecorded(pipeline: Pipeline, original: Original, key: str) -> Mapping[str, Any]:
    """Of what runs stored that could not record an original: whose it is."""
    if told := pipeline.log.extra_urls(original.asset, [key]).get(key):
        return told
    path = pipeline.log.paths(primary(original.kind).asset, [key]).get(key, "")
    user_id = re.match(r"(.+)/(?:previews|posters)/", path)
    return {"user_id": user_id[1]} if user_id else {}


def _own_objects(
    store: ObjectStore, original: Original, key: str, facts: Mapping[str, Any]
) -> list[str]:
    """What the pipeline wrote, also of earlier sources, of which the row may have told since."""
    user_id = text(facts.get("user_id"))
    if user_id is None:
        return []
    found = store.list(f"{user_id}/originals/{key}_")
    own = [info.key for info in found if original.revisions_of(key, info.key)]
    # Originals last.
    return sorted(own, key=original.is_extra, reverse=True)


def removal_of(
    asset: str,
    key: str,
    path: str,
    reason: str,
    *,
    is_kept: bool = False,
    **facts: dg.MetadataValue | str | float,
) -> dg.AssetObservation:
    """From this event on, what was made before counts as gone.

    `is_kept`: it stays in the store for now.
    """
    tags = {OUTCOME_TAG: ObservationKind.REMOVED.value}
    return dg.AssetObservation(
        asset_key=asset,
        partition=key,
        metadata={"removed": path, "reason": reason, **facts},
        tags=tags | ({KEPT_TAG: "true"} if is_kept else {}),
    )


def delete_originals(pipeline: Pipeline, instance: dg.DagsterInstance, before: dt.datetime) -> int:
    """Delete those that were saved here and whose row was found gone `before`; returns the number.

    Others are the application's own files. What a project or another row uses stays until a later
    call finds it unused, and so does that of a row that has come back. Raises StoreUnavailable,
    CatalogError.
    """
    deleted = 0
    for original in registry.ORIGINALS.values():
        keys = sorted(pipeline.log.kept_removals(original.asset, before=before))
        assets = (registry.primary(original.kind).asset, original.asset)
        for start in range(0, len(keys), _LOCKED):
            page = keys[start : start + _LOCKED]
            locks = {partition_lock(asset, key): key for key in page for asset in assets}
            with held(pipeline.endpoints.dagster_url, locks) as ours:
                busy = {key for lock, key in locks.items() if lock not in ours}
                free = [key for key in page if key not in busy]
                deleted += _delete_locked(pipeline, instance, original, free, before)
    return deleted


def _delete_locked(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    original: Original,
    keys: Sequence[str],
    before: dt.datetime,
) -> int:
    """Rows came back, and `lens restore` was run, before the locks were taken: all is read anew."""
    catalog = pipeline.catalog
    kept = pipeline.log.kept_removals(original.asset, before=before, keys=keys)
    wanted = kept.keys() - catalog.existing(original.kind, kept) - catalog.used_in_projects(kept)
    objects: dict[str, set[str]] = {}
    for key in sorted(wanted):
        with _logged_errors(key):
            revisions = original.revisions_of(key, str(kept[key]["removed"]))
            if revisions is not None:
                found = [info.key for info in pipeline.store.list(revisions.prefix)]
                objects[key] = {one for one in found if revisions.name.fullmatch(one)}
    every = set().union(*objects.values())
    used = catalog.used_sources(every) if every else set()
    for key, own in objects.items():
        with _logged_errors(key):
            for one in sorted(own - used):
                pipeline.store.delete(one)
            if not own & used:
                # The last word: later calls look no more.
                path = str(kept[key]["removed"])
                reason = "its row was gone for LENS_RETAIN_ORIGINALS_DAYS"
                instance.report_runless_asset_event(removal_of(original.asset, key, path, reason))
    return len(every - used)


@contextmanager
def _logged_errors(key: str) -> Iterator[None]:
    """Raises StoreUnavailable: each further object would be waited for as well."""
    try:
        yield
    except StoreUnavailable:
        raise
    except DerivativeError as error:
        logger.warning("%s: cannot delete its original: %s", key, error)


def delete_outputs(
    store: ObjectStore, derivative: Derivative, key: str, path: str, *, but: str | None = None
) -> None:
    """Delete the object at `path` and all its other revisions except `but`.

    One may be left of a deletion that failed, or of a run that was killed. Raises DerivativeError.
    """
    store.delete(path)
    revisions = derivative.revisions_of(key, path)
    if revisions is None:
        return
    for info in store.list(revisions.prefix):
        if revisions.name.fullmatch(info.key) and info.key != but:
            store.delete(info.key)


def _delete_keys(pipeline: Pipeline, partition_set: str, keys: Collection[str]) -> int:
    """Take `keys` out of the set, but none that Dagster needs there; returns their number.

    Dagster fails a backfill whose key is gone and cancels its runs, and fails a run whose range
    begins or ends with a key that is gone.
    """
    if not keys or pipeline.log.has_unfinished_backfill():
        return 0
    in_flight = pipeline.log.in_flight(*registry.assets_of_set(partition_set))
    return pipeline.log.delete_keys(partition_set, sorted(set(keys) - in_flight))


def retire(pipeline: Pipeline, partition_set: str) -> int:
    """Take keys of which nothing was heard for long out of the set, but those that failed stay.

    A key comes back when its row changes. Returns their number.
    """
    before = pipeline.catalog.now() - dt.timedelta(days=pipeline.settings.retain_partitions_days)
    assets = registry.assets_of_set(partition_set)
    quiet = pipeline.log.quiet_keys(partition_set, assets, before)
    retired = 0
    for start in range(0, len(quiet), _PAGE):
        page = quiet[start : start + _PAGE]
        failed = _failed(pipeline, assets, page)
        retired += _delete_keys(pipeline, partition_set, set(page) - failed)
    return retired


def _failed(pipeline: Pipeline, assets: Collection[str], keys: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for derivative in registry.of_site(pipeline):
        if derivative.asset in assets:
            rows = usable(list(pipeline.catalog.finished(derivative.kind, keys).values()))
            statuses = assess(pipeline, derivative, rows)
            found |= {one.id for one in statuses if one.state in (State.FAILED, State.DEAD)}
    return found
