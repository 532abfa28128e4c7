"""Finds what `lens once` and `lens backfill` make, and counts what they made."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lens_pipeline.catalog.rows import UnusableRow
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.backfill import adoption_advice, survey
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import SAVED, Derivative, Original
from lens_pipeline.derivatives.status import assess, status_pages, usable
from lens_pipeline.derivatives.store_audit import stored_objects
from lens_pipeline.event_log.history import DerivativeStatus, State

# Files whose mean size and time stand for all.
_SAMPLE = 200
# Of a file of which nothing is known, and of its download in a second.
_USUAL_BYTES, _USUAL_RATE = 5_000_000, 5_000_000


@dataclass(frozen=True, slots=True)
class FailedItem:
    id: str
    kind: str
    error: str
    error_class: str


@dataclass(slots=True)
class Result:
    """Numbers of files; at the end `found` = `ready` + `failed` + `skipped`."""

    found: int = 0
    ready: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[FailedItem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one kind; `known` are those of the given ids that are finished."""

    derivative: Derivative
    ids: list[str]
    invalid: list[UnusableRow]
    advice: str | None = None
    outdated: tuple[str, ...] = ()
    """Served as they are until all that is missing is made."""
    known: frozenset[str] = frozenset()

    def of_outdated(self) -> "Work":
        return Work(self.derivative, [*self.outdated], [])


def find_work(
    pipeline: Pipeline,
    derivative: Derivative,
    *,
    bulk: bool,
    limit: int | None,
    force: bool,
    lost: bool = False,
    outdated: bool = False,
    ids: Sequence[str] = (),
) -> Work:
    """The rows that are missing, failed or outdated; `ids` restricts them, `bulk` is that of
    `survey`.

    `force` adds ready ones, and dead letters among `ids`; `lost` adds ready ones whose
    object is not in the store; `outdated` those of any other revision.
    """
    also = partial(_wanted, pipeline, force=force, lost=lost, outdated=outdated)
    if ids:
        rows = pipeline.catalog.finished(derivative.kind, ids)
        invalid = [row for row in rows.values() if isinstance(row, UnusableRow)]
        found = assess(pipeline, derivative, usable(list(rows.values())))
        wanted = also(found)
        if force:
            wanted += [s.id for s in found if s.state is State.DEAD and not s.waits_for]
        return Work(derivative, wanted[:limit], invalid, known=frozenset(rows))
    if force or lost or outdated:
        invalid = []
        every = [key for page in status_pages(pipeline, derivative, invalid) for key in also(page)]
        return Work(derivative, every[:limit], invalid)
    surveyed = survey(pipeline, derivative, bulk=bulk, limit=limit)
    old = surveyed.unrecorded_old
    advice = adoption_advice(derivative, old) if old else None
    needed = [status.id for status in surveyed.needed]
    later = tuple(status.id for status in surveyed.outdated)
    return Work(derivative, needed, surveyed.invalid, advice, later)


def find_originals(
    pipeline: Pipeline, original: Original, *, limit: int | None, force: bool, ids: Sequence[str]
) -> Work:
    """Those that the store lacks, newest first: the links of the oldest may be dead anyway.

    Also what was given up on: a host may refuse many downloads at once, and serve them later.
    """
    invalid: list[UnusableRow] = []
    known: set[str] = set()
    found: list[DerivativeStatus] = []
    for page in status_pages(pipeline, original, invalid, ids or None):
        known.update(status.id for status in page)
        found += [s for s in page if force or s.state is not State.READY]
    found = [status for status in found if status.state is not State.PROCESSING]
    never = dt.datetime.min.replace(tzinfo=dt.UTC)
    found.sort(key=lambda status: status.finished_at or never, reverse=True)
    wanted = [status.id for status in found]
    return Work(original, wanted[:limit], invalid, known=frozenset(known))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of originals to be kept."""

    bytes: float | None
    """None: no preview tells of its source."""
    seconds: float
    is_assumed: bool
    """Whether no download and no original so far tells how long they take."""


def estimate(pipeline: Pipeline, works: Sequence[Work]) -> Estimate:
    """By the previews of the same rows, and by originals that were saved before."""
    sizes, seconds, is_assumed = 0.0, 0.0, False
    is_known = True
    for work in works:
        count = len(work.ids)
        picture = registry.primary(work.derivative.kind).asset
        previews = pipeline.log.latest(picture, work.ids[:_SAMPLE]).values()
        saved = pipeline.log.materialized_keys(work.derivative.asset, _SAMPLE)
        stored = pipeline.log.latest(work.derivative.asset, saved).values()
        originals = [facts for facts in stored if facts.get("kept") == SAVED]
        size = _mean(previews, "source_bytes")
        is_known &= size is not None or not count
        fetch, store = _mean(previews, "fetch_seconds"), _mean(originals, "store_seconds")
        is_assumed |= bool(count) and fetch is None
        if fetch is None:
            fetch = (size or _USUAL_BYTES) / _USUAL_RATE
        sizes += count * (size or 0.0)
        seconds += count * (fetch + (fetch if store is None else store))
    seconds /= pipeline.settings.threads
    return Estimate(sizes if is_known else None, seconds, is_assumed)


def _mean(found: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [float(facts[name]) for facts in found if name in facts]
    return sum(values) / len(values) if values else None


def _is_of_other_revision(ready: DerivativeStatus) -> bool:
    is_other = ready.remake is not None and ready.remake.revision != ready.revision
    return is_other and not ready.is_adopted


def _wanted(
    pipeline: Pipeline,
    found: Sequence[DerivativeStatus],
    *,
    force: bool,
    lost: bool,
    outdated: bool,
) -> list[str]:
    ready = [s for s in found if s.state is State.READY and not s.waits_for]
    again = {status.id for status in ready if force or status.path} if force or lost else set()
    if lost and not force:
        again -= stored_objects(pipeline, ready).keys()
    if outdated:
        again |= {s.id for s in ready if _is_of_other_revision(s)}
    return [s.id for s in found if s.id in again or (s.due_remake or s).is_missing]
