"""Which finished rows still need work."""

import datetime as dt
from dataclasses import dataclass, field

from lens_pipeline.catalog.rows import UnusableRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.round_robin import round_robin
from lens_pipeline.derivatives.status import status_pages
from lens_pipeline.event_log.history import DerivativeStatus, State

# More old rows without a record are a library still to be adopted.
ADOPTION_ROWS = 500
ADOPTION_AGE = dt.timedelta(days=1)


@dataclass(slots=True)
class Survey:
    needed: list[DerivativeStatus] = field(default_factory=list)
    invalid: list[UnusableRow] = field(default_factory=list)
    unrecorded_old: int = 0
    waiting: int = 0
    by_state: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))


def survey(
    pipeline: Pipeline,
    derivative: Derivative,
    *,
    bulk: bool,
    limit: int | None,
    only_due: bool = False,
) -> Survey:
    """Find up to `limit` rows whose derivative is missing or has failed, by turns of owners.

    Unless `bulk`, more than 500 rows over a day old without a record are left to be adopted.
    With `only_due`, failed ones are left alone until their `retry_at`.
    """
    found = Survey()
    old: list[DerivativeStatus] = []
    now = pipeline.catalog.now()
    for page in status_pages(pipeline, derivative, found.invalid):
        for status in page:
            found.by_state[status.state] += 1
            if status.waits:
                found.waiting += 1
            elif status.is_missing and (status.is_due(now) or not only_due):
                if bulk or not is_unadopted(status, now):
                    found.needed.append(status)
                    continue
                found.unrecorded_old += 1
                # A library of millions is only counted.
                if found.unrecorded_old <= ADOPTION_ROWS:
                    old.append(status)
    if found.unrecorded_old <= ADOPTION_ROWS:
        found.needed += old
        found.unrecorded_old = 0
    found.needed.sort(key=lambda status: status.id)
    if limit is not None:
        found.needed = round_robin(found.needed, lambda status: status.owner)[:limit]
    return found


def is_unadopted(status: DerivativeStatus, now: dt.datetime) -> bool:
    """Whether it is of a library older than the pipeline, if more than 500 are."""
    is_old = status.finished_at is None or status.finished_at < now - ADOPTION_AGE
    return is_old and status.is_unrecorded and status.is_missing


def adoption_advice(derivative: Derivative, rows: int) -> str:
    """For a library older than the pipeline."""
    return (
        f"{rows} finished {derivative.partition_set} over a day old have no record of a"
        f" {derivative.asset} and are left alone: run `lens adopt` if their {derivative.asset}s"
        " already lie in the store, then `lens backfill` to make the missing ones"
    )
