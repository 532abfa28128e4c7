"""What became of rows: for pages that list generations, masters, renditions and assets."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lens_pipeline.catalog.rows import Row
from lens_pipeline.derivatives.dead_letters import EXPLAINED
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import Assessed, assess
from lens_pipeline.event_log.history import ReportedProgress, State


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where one derivative of a row stands, with what its materialization or failure says."""

    state: State
    revision: str
    """What the row calls for now, and what it has if it is ready."""
    waits: str | None = None
    attempts: int = 0
    run_id: str | None = None
    progress: str | None = None
    """How far the run is that makes it, in words."""
    percent: int | None = None
    """The same as a number, if the run says so."""
    path: str | None = None
    """Object key, if it is ready."""
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    duration_seconds: float | None = None
    method: str | None = None
    thumbhash: str | None = None
    ready_at: dt.datetime | None = None
    reason: str | None = None
    """Why a shot that was checked cannot be used."""
    error: str | None = None
    error_class: str | None = None


def outcomes(pipeline: Pipeline, derivative: Derivative, rows: Sequence[Row]) -> dict[str, Outcome]:
    """What became of each row, by id; a constant number of queries."""
    if not rows:
        return {}
    assessed = assess(pipeline, derivative, rows)
    events = [one.standing.event_id for one in assessed if one.standing.event_id]
    details = pipeline.log.details(events) if events else {}
    runs = [
        one.standing.run_id
        for one in assessed
        if one.standing.run_id and one.standing.state is State.PROCESSING
    ]
    progress = pipeline.log.progresses(runs) if runs else {}
    return {
        one.row.id: _outcome(one, details.get(one.standing.event_id or 0, {}), progress)
        for one in assessed
    }


def _outcome(
    assessed: Assessed, facts: Mapping[str, object], progress: Mapping[str, ReportedProgress]
) -> Outcome:
    standing = assessed.standing
    if standing.state is State.READY:
        return Outcome(
            State.READY,
            assessed.revision,
            run_id=standing.run_id,
            path=_text(facts.get("path")),
            width=_whole(facts.get("width")),
            height=_whole(facts.get("height")),
            bytes=_whole(facts.get("bytes")),
            duration_seconds=_number(facts.get("duration_seconds")),
            method=_text(facts.get("method")),
            thumbhash=_text(facts.get("thumbhash")),
            ready_at=_time(facts.get("at")),
            reason=_text(facts.get("reason")),
        )
    error = EXPLAINED.get(standing.error_class or "") or _text(facts.get("error"))
    reported = progress.get(standing.run_id or "")
    return Outcome(
        standing.state,
        assessed.revision,
        waits=assessed.waits if standing.state in (State.NONE, State.FAILED) else None,
        attempts=standing.attempts,
        run_id=standing.run_id,
        progress=reported.text if reported else None,
        percent=reported.percent if reported else None,
        error=error if standing.error_class else None,
        error_class=standing.error_class,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _time(value: object) -> dt.datetime | None:
    return value if isinstance(value, dt.datetime) else None
