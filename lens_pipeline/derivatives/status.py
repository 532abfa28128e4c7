"""Statuses of rows: the application's tables compared with the event log."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lens_pipeline.catalog.generations import fingerprint
from lens_pipeline.catalog.rows import Generation, MasterVideo, Row, ScaledVideo, UnusableRow
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.errors import NotReady
from lens_pipeline.event_log.history import (
    DerivativeStatus,
    History,
    State,
    derive_status,
    last_good,
)

_KEYS_AT_ONCE = 500


def assess(
    pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]
) -> list[DerivativeStatus]:
    """In the order of `rows`, without the facts of events."""
    histories = pipeline.log.histories(derivative.asset, [row.id for row in rows])
    sources = _sources(pipeline, derivative, rows)
    unmade = [row for row in rows if not histories.get(row.id, History()).made]
    first = derivative.follows if unmade else None
    firsts = {one.id: one for one in assess(pipeline, first, unmade)} if first else {}
    recipe = derivative.recipe(pipeline.settings)
    now = dt.datetime.now(dt.UTC)
    found = []
    for row in rows:
        blank = _blank(pipeline, derivative, row, sources.get(row.id), firsts.get(row.id), recipe)
        history = histories.get(row.id, History())
        status = derive_status(blank, history, pipeline.settings.max_attempts, now)
        # An attempt that failed before its time does not count.
        if blank.waits_for and status.state is State.FAILED:
            status = blank
        found.append(status)
    return _with_last_good(pipeline, derivative, rows, found, histories)


def _with_last_good(
    pipeline: Pipeline,
    derivative: Derivative,
    rows: Sequence[Row],
    statuses: Sequence[DerivativeStatus],
    histories: Mapping[str, History],
) -> list[DerivativeStatus]:
    """Where what is called for is not ready, what was made before of the same source is."""
    if derivative.extension is None:
        return list(statuses)
    found = {key: history.made for key, history in histories.items()}
    made = {
        status.id: one
        for status in statuses
        if status.state is not State.READY and (one := found.get(status.id)) and one.revision
    }
    tags = pipeline.log.sources(one.event_id for one in made.values()) if made else {}
    chosen = derivative.chosen(pipeline.settings)

    def served(row: Row, status: DerivativeStatus) -> DerivativeStatus:
        one = made.get(row.id)
        if one is None or one.revision is None:
            return status
        key = derivative.object_key(row, one.revision) if one.is_stored else None
        if one.revision == derivative.adopted_revision(row):
            return last_good(status, one, key, is_adopted=True)
        tag = tags.get(one.event_id)
        parameters = derivative.parameters_of(row, one.revision, tag, pipeline.settings)
        if parameters is None:
            return status
        outdated = one.revision != status.revision and not chosen <= parameters
        return last_good(status, one, key, outdated=outdated)

    return [served(row, status) for row, status in zip(rows, statuses, strict=True)]


def _blank(
    pipeline: Pipeline,
    derivative: Derivative,
    row: Row,
    source: DerivativeStatus | None,
    first: DerivativeStatus | None,
    recipe: str | None,
) -> DerivativeStatus:
    """`source`: of what it is made from; `first`: of what it follows."""
    user_id, project_id = owner_of(row)
    upstream = source.revision if source and source.state is State.READY else None
    revision = derivative.revision(row, pipeline.settings, upstream)
    return DerivativeStatus(
        asset=derivative.asset,
        id=row.id,
        kind=derivative.kind.value,
        user_id=user_id,
        project_id=project_id,
        finished_at=row.finished_at,
        created_at=row.created_at if isinstance(row, Generation) else None,
        revision=revision,
        key=derivative.object_key(row, revision) if derivative.extension else None,
        upstream=upstream,
        fingerprint=fingerprint(row, recipe) if isinstance(row, Generation) and recipe else None,
        waits_for=derivative.waits_for(row)
        or next((why for one in (source, first) if one and (why := _unready(one))), None),
    )


def owner_of(row: Row) -> tuple[str | None, str | None]:
    if isinstance(row, Generation):
        return row.user_id, None
    master = row.master if isinstance(row, ScaledVideo) else row
    return None, master.project_id if isinstance(master, MasterVideo) else None


def _sources(
    pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]
) -> dict[str, DerivativeStatus]:
    """Of what each is made from, by id of the row."""
    if derivative.made_from is None:
        return {}
    sources = {row.id: source for row in rows if (source := derivative.source_row(row))}
    distinct = list({source.id: source for source in sources.values()}.values())
    found = {one.id: one for one in assess(pipeline, derivative.made_from, distinct)}
    return {key: found[source.id] for key, source in sources.items()}


def _unready(source: DerivativeStatus) -> str | None:
    """In words; None: it is ready."""
    if source.state is State.READY:
        return None
    return f"{source.kind} {source.id!r} is not ready: {source.state}"


def served_key(pipeline: Pipeline, derivative: Derivative, row: Row) -> str:
    """The object key of what is ready now. Raises NotReady."""
    (made,) = assess(pipeline, derivative, [row])
    if made.path is None:
        raise NotReady(_unready(made) or f"{made.asset} of {made.id!r} is not stored")
    return made.path


def describe(
    pipeline: Pipeline, statuses: Sequence[DerivativeStatus], *, ready: bool = True
) -> list[DerivativeStatus]:
    """Add the facts of events, in two queries.

    Without `ready`, ready ones get the time alone: metadata take long to read.
    """
    remakes = [s.remake for s in statuses if s.remake]
    read = [s.event_id for s in statuses if s.event_id and (ready or s.error_class)]
    read += [s.event_id for s in remakes if s.event_id and s.error_class]
    timed = [s.event_id for s in statuses if s.event_id and not (ready or s.error_class)]
    facts = pipeline.log.details(read) if read else {}
    if timed:
        facts |= {event: {"at": at} for event, at in pipeline.log.times(timed).items()}
    now = {"at": dt.datetime.now(dt.UTC)}

    def described(status: DerivativeStatus) -> DerivativeStatus:
        remake = described(status.remake) if status.remake else None
        return replace(status, facts=facts.get(status.event_id or 0, now), remake=remake)

    return [described(status) for status in statuses]


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
        for derivative in registry.switched_on(pipeline)
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
    for derivative in registry.of_site(pipeline):
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
