"""Which finished rows still need work: the application's rows compared with the event log."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lens_pipeline.catalog.rows import Row, UnusableRow
from lens_pipeline.derivatives import Derivative
from lens_pipeline.event_log.history import Standing, State, Wanted
from lens_pipeline.fairness import in_turns
from lens_pipeline.pipeline import Pipeline

# A site has this many old rows without a record only before its existing derivatives are adopted.
ADOPTION_ROWS = 500
ADOPTION_AGE = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Assessed:
    """A finished row, the revision it calls for, and where its derivative stands."""

    row: Row
    revision: str
    standing: Standing
    waits: str | None = None
    """What it waits for before it can be made, in words."""


@dataclass(slots=True)
class Survey:
    """What one comparison of all rows found."""

    needed: list[Assessed] = field(default_factory=list)
    invalid: list[UnusableRow] = field(default_factory=list)
    unrecorded_old: int = 0
    waiting: int = 0
    by_state: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))


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
    sources = {row.id: source for row in rows if (source := derivative.row_made_from(row))}
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


def survey(pipeline: Pipeline, derivative: Derivative, *, bulk: bool, limit: int | None) -> Survey:
    """Find up to `limit` rows whose derivative is missing or failed for now, by turns of owners.

    Unless `bulk`, more than 500 rows over a day old without any record are left alone: on a site
    whose derivatives exist already they are to be adopted, not made again. What waits for something
    else is counted only.
    """
    found = Survey()
    old: list[Assessed] = []
    old_enough = pipeline.catalog.now() - ADOPTION_AGE
    for page in assessed_pages(pipeline, derivative, found.invalid):
        for assessed in page:
            state = assessed.standing.state
            found.by_state[state] += 1
            if state not in (State.NONE, State.FAILED):
                continue
            if assessed.waits:
                found.waiting += 1
            elif _is_unrecorded(assessed) and _finished_before(assessed.row, old_enough):
                old.append(assessed)
            else:
                found.needed.append(assessed)
    if bulk or len(old) <= ADOPTION_ROWS:
        found.needed.extend(old)
    else:
        found.unrecorded_old = len(old)
    found.needed.sort(key=lambda assessed: assessed.row.id)
    if limit is not None:
        found.needed = in_turns(found.needed, lambda a: derivative.owner(a.row))[:limit]
    return found


def adoption_advice(derivative: Derivative, rows: int) -> str:
    """What to tell people who start the pipeline on a library that is already there."""
    return (
        f"{rows} finished {derivative.partitions.name} over a day old have no record of a"
        f" {derivative.asset} and are left alone: run `lens adopt` if their {derivative.asset}s"
        " already lie in the store, then `lens backfill` to make the missing ones"
    )


def _is_unrecorded(assessed: Assessed) -> bool:
    return assessed.standing.state is State.NONE and not assessed.standing.outdated


def _finished_before(row: Row, moment: dt.datetime) -> bool:
    return row.finished_at is None or row.finished_at < moment
