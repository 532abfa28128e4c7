"""Where derivatives stand: the application's rows compared with the event log."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lens_pipeline.catalog.rows import Row, UnusableRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.event_log.history import Standing, State, Wanted


@dataclass(frozen=True, slots=True)
class Assessed:
    """A finished row, the revision it calls for, and where its derivative stands."""

    row: Row
    revision: str
    standing: Standing
    waits: str | None = None
    """What it waits for before it can be made, in words."""


def assess(pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]) -> list[Assessed]:
    """Where the derivative of each row stands, in the order given."""
    revisions = {row.id: derivative.revision(row, pipeline.settings) for row in rows}
    wanted = {row.id: Wanted(revisions[row.id], row.finished_at) for row in rows}
    standings = pipeline.log.standings(derivative.asset, wanted, pipeline.settings.max_attempts)
    waits = _waits(pipeline, derivative, rows)
    for row_id in waits:
        # Its turn has not come, whatever became of an attempt before.
        if standings[row_id].state is State.FAILED:
            standings[row_id] = Standing(State.NONE, outdated=standings[row_id].outdated)
    return [Assessed(row, revisions[row.id], standings[row.id], waits.get(row.id)) for row in rows]


def _waits(pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]) -> dict[str, str]:
    """What each row waits for, by id; rows that wait for nothing are absent."""
    found = {row.id: reason for row in rows if (reason := derivative.waits_for(row))}
    if derivative.made_from is None:
        return found
    sources = {row.id: source for row in rows if (source := derivative.source_row(row))}
    distinct = list({source.id: source for source in sources.values()}.values())
    if not distinct:
        return found
    states = {
        assessed.row.id: assessed.standing.state
        for assessed in assess(pipeline, derivative.made_from, distinct)
    }
    return found | {
        key: f"{derivative.made_from.kind} {source.id!r} is not ready: {states[source.id]}"
        for key, source in sources.items()
        if states[source.id] is not State.READY
    }


def assessed_pages(
    pipeline: Pipeline, derivative: Derivative, invalid: list[UnusableRow]
) -> Iterator[list[Assessed]]:
    """Every finished row with its standing, by pages; rows that cannot be used go to `invalid`."""
    for page in pipeline.catalog.all_finished(derivative.kind):
        invalid.extend(row for row in page if isinstance(row, UnusableRow))
        yield assess(pipeline, derivative, usable(page))


def usable(rows: Sequence[Row | UnusableRow]) -> list[Row]:
    """Those of `rows` that can be used, in their order."""
    return [row for row in rows if not isinstance(row, UnusableRow)]
