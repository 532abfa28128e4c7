"""Which finished rows still need work: the application's rows compared with the event log."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lens_pipeline.catalog import Generation, InvalidGeneration
from lens_pipeline.derivatives import Derivative
from lens_pipeline.pipeline import Pipeline
from lens_pipeline.status import Standing, State, Wanted

# A site has this many old rows without a record only before its existing derivatives are adopted.
ADOPTION_ROWS = 500
ADOPTION_AGE = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Assessed:
    """A finished row, the revision it calls for, and where its derivative stands."""

    generation: Generation
    revision: str
    standing: Standing


@dataclass(slots=True)
class Survey:
    """What one comparison of all rows found."""

    needed: list[Assessed] = field(default_factory=list)
    invalid: list[InvalidGeneration] = field(default_factory=list)
    unrecorded_old: int = 0
    by_state: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))


def assess(
    pipeline: Pipeline, derivative: Derivative, generations: Sequence[Generation]
) -> list[Assessed]:
    """Where the derivative of each row stands, in the order given."""
    revisions = {
        generation.id: derivative.revision(generation, pipeline.settings)
        for generation in generations
    }
    wanted = {
        generation.id: Wanted(revisions[generation.id], generation.finished_at)
        for generation in generations
    }
    standings = pipeline.log.standings(derivative.asset, wanted, pipeline.settings.max_attempts)
    return [
        Assessed(generation, revisions[generation.id], standings[generation.id])
        for generation in generations
    ]


def assessed_pages(
    pipeline: Pipeline, derivative: Derivative, invalid: list[InvalidGeneration]
) -> Iterator[list[Assessed]]:
    """Every finished row with its standing, by pages; rows that cannot be used go to `invalid`."""
    for page in pipeline.catalog.all_finished(derivative.kind):
        invalid.extend(row for row in page if isinstance(row, InvalidGeneration))
        yield assess(pipeline, derivative, [row for row in page if isinstance(row, Generation)])


def survey(pipeline: Pipeline, derivative: Derivative, *, bulk: bool, limit: int | None) -> Survey:
    """Find up to `limit` rows whose derivative is missing or failed for now, oldest id first.

    Unless `bulk`, more than 500 rows over a day old without any record are left alone: on a site
    whose derivatives exist already they are to be adopted, not made again.
    """
    found = Survey()
    old: list[Assessed] = []
    old_enough = pipeline.catalog.now() - ADOPTION_AGE
    for page in assessed_pages(pipeline, derivative, found.invalid):
        for assessed in page:
            state = assessed.standing.state
            found.by_state[state] += 1
            if _is_unrecorded(assessed) and _finished_before(assessed.generation, old_enough):
                old.append(assessed)
            elif state in (State.NONE, State.FAILED):
                found.needed.append(assessed)
    if bulk or len(old) <= ADOPTION_ROWS:
        found.needed.extend(old)
    else:
        found.unrecorded_old = len(old)
    found.needed.sort(key=lambda assessed: assessed.generation.id)
    if limit is not None:
        del found.needed[limit:]
    return found


def adoption_advice(derivative: Derivative, rows: int) -> str:
    """What to tell people who start the pipeline on a library that is already there."""
    return (
        f"{rows} finished {derivative.kind}s over a day old have no record of a {derivative.asset}"
        f" and are left alone: run `lens adopt` if their {derivative.asset}s already lie in the"
        " store, then `lens backfill` to make the missing ones"
    )


def _is_unrecorded(assessed: Assessed) -> bool:
    return assessed.standing.state is State.NONE and not assessed.standing.outdated


def _finished_before(generation: Generation, moment: dt.datetime) -> bool:
    return generation.finished_at is None or generation.finished_at < moment
