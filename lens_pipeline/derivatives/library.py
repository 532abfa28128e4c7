"""Pages of generations with the status of their preview or poster. Masters: `web/routes`."""

import base64
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lens_pipeline.catalog.generations import ListedGeneration, Place, Selection
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative, primary
from lens_pipeline.derivatives.status import assess, row_statuses
from lens_pipeline.errors import LensError
from lens_pipeline.event_log.history import DerivativeStatus, State

# The cost of a page of a rare status must not grow with the library.
_MOST_LOOKED_AT = 2000
# Nor that of a search: 5,000 names take 20 to 100 ms.
_MOST_SEARCHED = 5000


class InvalidCursor(LensError):
    """The text is no cursor of a page."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A generation and the status of its preview or poster."""

    row: ListedGeneration
    status: DerivativeStatus


class Page(NamedTuple):
    """Entries newest first; `cursor` None: no more."""

    entries: list[Entry]
    cursor: str | None


def entries(pipeline: Pipeline, rows: Sequence[ListedGeneration]) -> list[Entry]:
    """In the order of `rows`; a constant number of queries."""
    # An unfinished row calls for nothing yet.
    statuses = {row.id: DerivativeStatus(primary(row.kind).asset, row.id) for row in rows}
    for kind in (Kind.PHOTO, Kind.VIDEO):
        finished = [row.generation() for row in rows if row.kind is kind and row.is_finished]
        statuses |= row_statuses(pipeline, primary(kind), finished)
    return [Entry(row, statuses[row.id]) for row in rows]


def status(pipeline: Pipeline, entry: Entry, derivative: Derivative) -> DerivativeStatus:
    if derivative is primary(entry.row.kind) or not entry.row.is_finished:
        return entry.status
    return row_statuses(pipeline, derivative, [entry.row.generation()])[entry.row.id]


def stored_ids(
    pipeline: Pipeline, derivative: Derivative, found: Sequence[Entry]
) -> frozenset[str]:
    """Those of `found` that have an object of it."""
    rows = [
        entry.row.generation()
        for entry in found
        if entry.row.kind is derivative.kind and entry.row.is_finished
    ]
    statuses = assess(pipeline, derivative, rows) if rows else []
    return frozenset(status.id for status in statuses if status.path is not None)


def find(pipeline: Pipeline, generation_id: str) -> Entry | None:
    """None if there is no such row, or it cannot be used."""
    row = pipeline.catalog.library_rows([generation_id]).get(generation_id)
    return entries(pipeline, [row])[0] if row else None


def page(
    pipeline: Pipeline, selection: Selection, state: State | None, cursor: str | None, limit: int
) -> Page:
    """Up to `limit` entries; one with fewer may have a cursor too. Raises InvalidCursor."""
    place = read_cursor(cursor) if cursor else None
    if selection.words and place is None and selection.ids is None:
        exact = _of_id(pipeline, selection, selection.words, state)
        if exact:
            return Page(exact, None)
    if state is not None:
        selection = replace(selection, **_narrowed(pipeline, selection, state))
    found: list[Entry] = []
    looked_at = 0
    size = limit if state is None else max(limit, 200)
    while True:
        until = _end_of_search(pipeline, selection, place)
        rows = pipeline.catalog.library_page(selection, place, size, until)
        for entry in entries(pipeline, rows):
            place = _place(entry.row)
            if state is None or entry.status.state is state:
                found.append(entry)
            if len(found) == limit:
                return Page(found, _cursor(place))
        looked_at += len(rows)
        if len(rows) < size:
            return Page(found, _cursor(until))
        if looked_at >= _MOST_LOOKED_AT:
            return Page(found, _cursor(place))


def _end_of_search(pipeline: Pipeline, selection: Selection, after: Place | None) -> Place | None:
    """None: of the library, or nothing is searched."""
    if not selection.words or selection.ids is not None:
        return None
    return pipeline.catalog.library_place(selection, after, _MOST_SEARCHED)


def _cursor(place: Place | None) -> str | None:
    return write_cursor(place) if place else None


def _of_id(
    pipeline: Pipeline, selection: Selection, row_id: str, state: State | None
) -> list[Entry]:
    """The one with exactly this id, if it is selected."""
    only = replace(selection, words=None, ids=[row_id])
    found = entries(pipeline, pipeline.catalog.library_page(only, None, 1))
    return [entry for entry in found if state in (None, entry.status.state)]


def write_cursor(place: Place) -> str:
    text = json.dumps([place.changed_at.isoformat(), place.id])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str) -> Place:
    """Raises InvalidCursor."""
    try:
        padded = text + "=" * (-len(text) % 4)
        moment, row_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        changed_at = dt.datetime.fromisoformat(moment)
        # PostgreSQL refuses some offsets and years that Python reads.
        place = Place(changed_at.astimezone(dt.UTC), row_id)
    except (ValueError, TypeError, OverflowError):
        raise InvalidCursor("cursor is not one that an earlier page gave") from None
    if changed_at.tzinfo is None or not isinstance(row_id, str) or not row_id.isprintable():
        raise InvalidCursor("cursor is not one that an earlier page gave")
    return place


def _narrowed(pipeline: Pipeline, selection: Selection, state: State) -> dict[str, object]:
    """Changes to `selection` that leave out rows that cannot be in `state`."""
    if state in (State.NONE, State.READY):
        return {"finished": True} if state is State.READY else {}
    kinds = [selection.kind] if selection.kind else [Kind.PHOTO, Kind.VIDEO]
    assets = [primary(kind).asset for kind in kinds]
    known = pipeline.log.in_flight if state is State.PROCESSING else pipeline.log.troubled
    ids = frozenset[str]().union(*map(known, assets))
    return {"finished": True, "ids": ids if selection.ids is None else ids & {*selection.ids}}


def _place(row: ListedGeneration) -> Place | None:
    return Place(row.changed_at, row.id) if row.changed_at else None
