"""How many finished rows of a kind stand where, and since when. It only reads."""

import datetime as dt
from collections.abc import Mapping
from typing import NamedTuple

from lens_pipeline.catalog.rows import UnusableRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import status_pages
from lens_pipeline.event_log.history import State

# The copy is compared with every row each hour.
_COMPARED_SECONDS = 7200.0


class StateCount(NamedTuple):
    rows: int
    since: dt.datetime | None
    """The time of the oldest of these rows."""


def state_counts(
    pipeline: Pipeline, derivative: Derivative, *, is_kept: bool
) -> Mapping[State, StateCount]:
    """The usable rows by the state of `derivative`.

    `is_kept`: a process keeps `lens_generations` true. Its table counts a million rows in 2 s;
    without it each row is assessed, in 90 s.
    """
    if is_kept and derivative.recipe(pipeline.settings):
        known = pipeline.catalog.view_counts(derivative.kind, derivative.asset, _COMPARED_SECONDS)
        if known is not None:
            return {State(name): StateCount(*one) for name, one in known.items()}
    found: dict[State, StateCount] = {}
    unusable: list[UnusableRow] = []
    for page in status_pages(pipeline, derivative, unusable):
        for status in page:
            rows, since = found.get(status.state, (0, None))
            times = [time for time in (since, status.finished_at) if time]
            found[status.state] = StateCount(rows + 1, min(times, default=None))
    return found
