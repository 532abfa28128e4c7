"""Statuses of rows: the application's tables compared with the event log."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lens_pipeline.catalog.generations import fingerprint
from lens_pipeline.catalog.rows import Generation, MasterVideo, Row, ScaledVideo, UnusableRow
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.event_log.history import DerivativeStatus, History, State, derive_status

_KEYS_AT_ONCE = 500


def assess(
    pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]
) -> list[DerivativeStatus]:
    """In the order of `rows`, without the facts of events."""
    histories = pipeline.log.histories(derivative.asset, [row.id for row in rows])
    waits = _waits(pipeline, derivative, rows)
    recipe = derivative.recipe(pipeline.settings)
    now = dt.datetime.now(dt.UTC)
    found = []
    for row in rows:
        blank = _blank(pipeline, derivative, row, waits.get(row.id), recipe)
        history = histories.get(row.id, History())
        status = derive_status(blank, history, pipeline.settings.max_attempts, now)
        # An attempt that failed before its time does not count.
        found.append(blank if blank.waits_for and status.state is State.FAILED else status)
    return found


def _blank(
    pipeline: Pipeline, derivative: Derivative, row: Row, waits: str | None, recipe: str | None
) -> DerivativeStatus:
    user_id, project_id = owner_of(row)
    revision = derivative.revision(row, pipeline.settings)
    return DerivativeStatus(
        asset=derivative.asset,
        id=row.id,
        kind=derivative.kind.value,
        user_id=user_id,
        project_id=project_id,
        finished_at=row.finished_at,
        revision=revision,
        key=derivative.object_key(row, revision) if derivative.extension else None,
        fingerprint=fingerprint(row, recipe) if isinstance(row, Generation) and recipe else None,
        waits_for=waits,
    )


def owner_of(row: Row) -> tuple[str | None, str | None]:
    if isinstance(row, Generation):
        return row.user_id, None
    master = row.master if isinstance(row, ScaledVideo) else row
    return None, master.project_id if isinstance(master, MasterVideo) else None


def _waits(pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]) -> dict[str, str]:
    found = {row.id: reason for row in rows if (reason := derivative.waits_for(row))}
    if derivative.made_from is None:
        return found
    sources = {row.id: source for row in rows if (source := derivative.source_row(row))}
    distinct = list({source.id: source for source in sources.values()}.values())
    if not distinct:
        return found
    states = {one.id: one.state for one in assess(pipeline, derivative.made_from, distinct)}
    return found | {
        key: f"{derivative.made_from.kind} {source.id!r} is not ready: {states[source.id]}"
        for key, source in sources.items()
        if states[source.id] is not State.READY
    }


def describe(
    pipeline: Pipeline, statuses: Sequence[DerivativeStatus], *, ready: bool = True
) -> list[DerivativeStatus]:
    """Add the facts of events, in two queries.

    Without `ready`, ready ones get the time alone: metadata take long to read.
    """
    read = [s.event_id for s in statuses if s.event_id and (ready or s.error_class)]
    timed = [s.event_id for s in statuses if s.event_id and not (ready or s.error_class)]
    facts = pipeline.log.details(read) if read else {}
    if timed:
        facts |= {event: {"at": at} for event, at in pipeline.log.times(timed).items()}
    now = {"at": dt.datetime.now(dt.UTC)}
    return [replace(s, facts=facts.get(s.event_id or 0, now)) for s in statuses]


def row_statuses(
    pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]
) -> dict[str, DerivativeStatus]:
    """By id, described, with progress; a constant number of queries."""
    if not rows:
        return {}
    found = describe(pipeline, assess(pipeline, derivative, rows))
    runs = [s.run_id for s in found if s.run_id and s.state is State.PROCESSING]
    progress = pipeline.log.progress(runs) if runs else {}
    return {s.id: replace(s, progress=progress.get(s.run_id or "")) for s in found}


def statuses_of_id(pipeline: Pipeline, row_id: str) -> list[DerivativeStatus]:
    """Described, of the finished rows with this id."""
    return [
        status
        for derivative in registry.DERIVATIVES
        for row in pipeline.catalog.finished(derivative.kind, [row_id]).values()
        for status in row_statuses(pipeline, derivative, usable([row])).values()
    ]


def statuses_of_partitions(
    pipeline: Pipeline, touched: Mapping[str, Iterable[str]]
) -> list[DerivativeStatus]:
    """Described; a few queries for every 500 partitions of an asset.

    Partitions without a row have the state `none` and no owner.
    """
    found: list[DerivativeStatus] = []
    for derivative in registry.DERIVATIVES:
        keys = sorted(touched.get(derivative.asset, ()))
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            page = keys[start : start + _KEYS_AT_ONCE]
            rows = usable(list(pipeline.catalog.finished(derivative.kind, page).values()))
            known = {status.id: status for status in assess(pipeline, derivative, rows)}
            gone = DerivativeStatus(derivative.asset, "", derivative.kind.value)
            found += describe(pipeline, [known.get(key) or replace(gone, id=key) for key in page])
    return found


def status_pages(
    pipeline: Pipeline,
    derivative: Derivative,
    invalid: list[UnusableRow],
    ids: Sequence[str] | None = None,
) -> Iterator[list[DerivativeStatus]]:
    """Of finished rows, all or those of `ids`; rows that cannot be used go to `invalid`."""
    for page in _pages(pipeline, derivative, ids):
        invalid.extend(row for row in page if isinstance(row, UnusableRow))
        yield assess(pipeline, derivative, usable(page))


def _pages(
    pipeline: Pipeline, derivative: Derivative, ids: Sequence[str] | None
) -> Iterator[list[Row | UnusableRow]]:
    if ids is None:
        yield from pipeline.catalog.all_finished(derivative.kind)
        return
    for start in range(0, len(ids), _KEYS_AT_ONCE):
        page = ids[start : start + _KEYS_AT_ONCE]
        # A UUID may be asked for in two spellings.
        found = pipeline.catalog.finished(derivative.kind, page).values()
        yield list({row.id: row for row in found}.values())


def usable(rows: Sequence[Row | UnusableRow]) -> list[Row]:
    return [row for row in rows if not isinstance(row, UnusableRow)]
