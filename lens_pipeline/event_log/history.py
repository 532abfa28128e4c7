"""From the events of one partition to where it stands. Pure: no SQL."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

IN_FLIGHT = frozenset({"QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "CANCELING"})


class State(StrEnum):
    """The derived status of one derivative."""

    NONE = "none"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    DEAD = "dead"


class Outcome(StrEnum):
    """What an observation on a partition says."""

    FAILED = "failed"
    RETRY = "retry"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Materialized:
    """The latest materialization of a partition."""

    event_id: int
    revision: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """One of our observations on a partition."""

    event_id: int
    run_id: str
    outcome: Outcome
    revision: str | None
    error_class: str
    permanent: bool
    # The fault lay with our surroundings; see `failures.DerivativeError.blameless`.
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that was to materialize a partition, and how that run stands (None: deleted)."""

    event_id: int
    run_id: str
    run_status: str | None
    # Ended by a stop of its worker, or never begun: says nothing about its files.
    interrupted: bool = False
    at: dt.datetime | None = None

    def precedes(self, moment: dt.datetime | None) -> bool:
        """Whether it was planned before `moment`; False if either time is unknown."""
        return self.at is not None and moment is not None and self.at < moment


@dataclass(frozen=True, slots=True)
class History:
    """What the event log holds about one partition; marks and plans oldest first."""

    materialized: Materialized | None = None
    marks: tuple[Mark, ...] = ()
    planned: tuple[Planned, ...] = ()

    @property
    def is_removed(self) -> bool:
        """Whether the output was deleted and not made again."""
        made_at = self.materialized.event_id if self.materialized else 0
        return _last(self.marks, Outcome.REMOVED) > made_at

    @property
    def is_in_flight(self) -> bool:
        """Whether a run that is queued or under way is to materialize it."""
        return any(plan.run_status in IN_FLIGHT for plan in self.planned)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one derivative stands; `attempts` failed since the last success or retry."""

    state: State
    attempts: int = 0
    error_class: str | None = None
    run_id: str | None = None
    event_id: int | None = None
    # Made for an earlier state of its row, or with other parameters.
    outdated: bool = False


CANCELED = "Canceled"
RUN_FAILED = "RunFailed"


@dataclass(frozen=True, slots=True)
class ReportedProgress:
    """How far a run under way says it is."""

    text: str
    percent: int | None

    @classmethod
    def of(cls, text: str, percent: str | None) -> Self:
        """From the values of PROGRESS_TAG and PERCENT_TAG; people may tag runs as they like."""
        return cls(text, int(percent) if percent and percent.isdecimal() else None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row calls for now, and when it came to call for it."""

    revision: str
    changed_at: dt.datetime | None = None


def standing(
    history: History, revision: str, max_attempts: int, changed_at: dt.datetime | None = None
) -> Standing:
    """Derive the state of one partition whose row calls for `revision` since `changed_at`.

    A run that was cancelled, or ended without a word, left no revision behind: it counts only if
    it was planned after the row's last change.
    """
    removed_at = _last(history.marks, Outcome.REMOVED)
    materialized = history.materialized
    if materialized is not None and materialized.event_id < removed_at:
        materialized = None
    materialized_at = materialized.event_id if materialized else 0
    since = max(materialized_at, removed_at, _last(history.marks, Outcome.RETRY))

    failures = [
        mark
        for mark in history.marks
        if mark.event_id > since and mark.outcome is Outcome.FAILED and mark.revision == revision
    ]
    is_up_to_date = materialized is not None and materialized.revision == revision
    spoken_for = {mark.run_id for mark in history.marks if mark.outcome is Outcome.FAILED}
    plans = [plan for plan in history.planned if plan.event_id > since]
    crashed = [
        plan
        for plan in plans
        # One that would have found nothing to do says nothing by its end.
        if not is_up_to_date
        and plan.run_status == "FAILURE"
        and not plan.interrupted
        and not plan.precedes(changed_at)
        and plan.run_id not in spoken_for
    ]
    latest = plans[-1] if plans else None
    attempts = sum(not mark.blameless for mark in failures) + len(crashed)

    if latest and latest.run_status in IN_FLIGHT and latest.run_id not in spoken_for:
        # What has failed to be made anew is not ready, or no run would try it again.
        if is_up_to_date and not failures:
            return Standing(State.READY, run_id=latest.run_id, event_id=materialized_at)
        return Standing(State.PROCESSING, attempts, run_id=latest.run_id)
    if (
        latest
        and latest.run_status == "CANCELED"
        and not latest.precedes(changed_at)
        and latest.run_id not in spoken_for
    ):
        if is_up_to_date:  # to be made again, which somebody thought better of
            return Standing(State.READY, event_id=materialized_at)
        return Standing(State.DEAD, attempts, CANCELED, latest.run_id, latest.event_id)
    if failures or crashed:
        last = max([*failures, *crashed], key=lambda event: event.event_id)
        error_class = last.error_class if isinstance(last, Mark) else RUN_FAILED
        given_up = attempts >= max_attempts or (isinstance(last, Mark) and last.permanent)
        state = State.DEAD if given_up else State.FAILED
        return Standing(state, attempts, error_class, last.run_id, last.event_id)
    if is_up_to_date:
        return Standing(State.READY, event_id=materialized_at)
    return Standing(State.NONE, outdated=materialized is not None)


def _last(marks: Iterable[Mark], outcome: Outcome) -> int:
    return max((mark.event_id for mark in marks if mark.outcome is outcome), default=0)
