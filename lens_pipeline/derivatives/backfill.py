"""Which finished rows still need work."""

import datetime as dt
from dataclasses import dataclass, field

from lens_pipeline.catalog.rows import Row, UnusableRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative, owner
from lens_pipeline.derivatives.round_robin import round_robin
from lens_pipeline.derivatives.status import Assessed, assessed_pages
from lens_pipeline.event_log.history import State

# A site has this many old rows without a record only before its existing derivatives are adopted.
ADOPTION_ROWS = 500
ADOPTION_AGE = dt.timedelta(days=1)


@dataclass(slots=True)
class Survey:
    """What one comparison of all rows found."""

    needed: list[Assessed] = field(default_factory=list)
    invalid: list[UnusableRow] = field(default_factory=list)
    unrecorded_old: int = 0
    waiting: int = 0
    by_state: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))


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
        found.needed = round_robin(found.needed, lambda a: owner(a.row))[:limit]
    return found


def adoption_advice(derivative: Derivative, rows: int) -> str:
    """What to tell people who start the pipeline on a library that is already there."""
    return (
        f"{rows} finished {derivative.partition_set} over a day old have no record of a"
        f" {derivative.asset} and are left alone: run `lens adopt` if their {derivative.asset}s"
        " already lie in the store, then `lens backfill` to make the missing ones"
    )


def _is_unrecorded(assessed: Assessed) -> bool:
    return assessed.standing.state is State.NONE and not assessed.standing.outdated


def _finished_before(row: Row, moment: dt.datetime) -> bool:
    return row.finished_at is None or row.finished_at < moment
