"""The status of one derivative, from its events. Pure: `reader.py` reads the events."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any, Self, TypeVar

from lens_pipeline.errors import EncoderDied, HostUnreachable, SigningUnavailable
from lens_pipeline.event_log.tags import (
    PERCENT_TAG,
    PROGRESS_TAG,
    PROGRESS_TAGS,
    SECONDS_LEFT_TAG,
    STAGE_TAG,
)
from lens_pipeline.reasons import explain

IN_FLIGHT = frozenset({"QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "CANCELING"})
CANCELED = "Canceled"
RUN_FAILED = "RunFailed"
# Classes of errors for which no run recorded a reason.
RUN_ERRORS = frozenset({CANCELED, RUN_FAILED})

# Before the next attempt. The first steps are short: links may live an hour only.
_DELAYS = tuple(dt.timedelta(minutes=minutes) for minutes in (1, 5, 15, 30, 60, 360, 1440))
# They count as no attempt, but may concern one file alone: it is not tried each time, nor for ever.
_PATIENT = frozenset({HostUnreachable.__name__, EncoderDied.__name__})
# One fault for all files, but each attempt makes the whole file.
_COSTLY = frozenset({SigningUnavailable.__name__})
_LONGEST_PATIENCE = dt.timedelta(days=3)

# A sensor asks so often again after runs that did nothing; then the backfill does.
_MOST_REQUESTS = 3

T = TypeVar("T")


class State(StrEnum):
    """The derived status of one derivative."""

    NONE = "none"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    DEAD = "dead"


class ObservationKind(StrEnum):
    """Values of OUTCOME_TAG."""

    FAILED = "failed"
    RETRY = "retry"
    REMOVED = "removed"
    RESTORED = "restored"
    """The object that a removal left is not to be deleted."""


@dataclass(frozen=True, slots=True)
class Materialization:
    """The latest materialization of a partition."""

    event_id: int
    revision: str | None
    is_stored: bool = True  # False: the row needs no object


@dataclass(frozen=True, slots=True)
class Observation:
    event_id: int
    run_id: str
    kind: ObservationKind
    revision: str | None
    error_class: str
    permanent: bool
    # See `DerivativeError.blameless`.
    blameless: bool = False
    at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that was to materialize a partition; status None: deleted."""

    event_id: int
    run_id: str
    run_status: str | None
    # Its worker was stopped, it never began, or its backfill failed: no attempt.
    interrupted: bool = False
    at: dt.datetime | None = None
    # What it was to make, if a sensor or the backfill asked for it.
    revision: str | None = None

    @property
    def is_void(self) -> bool:
        """Dagster cancelled it, not a person."""
        return self.run_status == "CANCELED" and self.interrupted

    def precedes(self, moment: dt.datetime | None, revision: str) -> bool:
        """Whether it was for what the row said before; False if a time is unknown.

        A change that leaves the revision as it is, such as a favourite's click, is none.
        """
        is_before = self.at is not None and moment is not None and self.at < moment
        return is_before and self.revision != revision


@dataclass(frozen=True, slots=True)
class History:
    """The events of one partition, oldest first."""

    materialized: Materialization | None = None
    observations: tuple[Observation, ...] = ()
    planned: tuple[PlannedRun, ...] = ()

    @property
    def is_removed(self) -> bool:
        made_at = self.materialized.event_id if self.materialized else 0
        return _last(self.observations, ObservationKind.REMOVED) > made_at

    @property
    def made(self) -> Materialization | None:
        """The latest materialization, unless its object was removed."""
        return None if self.is_removed else self.materialized

    @property
    def is_clean(self) -> bool:
        """Whether its removal is the last event."""
        made = (self.materialized,) if self.materialized else ()
        last = max(one.event_id for one in (*made, *self.observations, *self.planned))
        return last == _last(self.observations, ObservationKind.REMOVED)

    @property
    def was_back(self) -> bool:
        """Whether a run after its removal found the row again."""
        removed_at = _last(self.observations, ObservationKind.REMOVED)
        # A failure without a row has no revision.
        in_vain = {one.run_id for one in self.observations if not one.revision}
        return any(
            plan.event_id > removed_at and plan.run_id not in in_vain for plan in self.planned
        )

    @property
    def request_key(self) -> str:
        """Differs after each event, and after each of a few runs that left none."""
        marks = [one.event_id for one in self.observations]
        last = max([*marks, self.materialized.event_id if self.materialized else 0])
        runs = sum(plan.event_id > last for plan in self.planned)
        return f"{last}.{min(runs, _MOST_REQUESTS)}"

    @property
    def is_in_flight(self) -> bool:
        return any(plan.run_status in IN_FLIGHT for plan in self.planned)


class Stage(StrEnum):
    """What a run of masters or renditions is at."""

    FETCHING = "fetching"
    CHECKING = "checking"
    READING = "reading"
    ENCODING = "encoding"
    SOUND = "sound"
    SCALING = "scaling"
    JOINING = "joining"
    VERIFYING = "verifying"
    STORING = "storing"


@dataclass(frozen=True, slots=True)
class ReportedProgress:
    text: str
    percent: int | None
    stage: Stage | None = None
    seconds_left: int | None = None
    """By the pace until now; None: not known."""

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Self:
        """From the tags of a run, which users may set to anything."""
        stage = tags.get(STAGE_TAG)
        return cls(
            tags.get(PROGRESS_TAG, ""),
            _number(tags.get(PERCENT_TAG)),
            Stage(stage) if stage in list(Stage) else None,
            _number(tags.get(SECONDS_LEFT_TAG)),
        )

    @property
    def tags(self) -> dict[str, str]:
        values = (self.text, self.percent, self.stage, self.seconds_left)
        shown = ("" if value is None else str(value) for value in values)
        return dict(zip(PROGRESS_TAGS, shown, strict=True))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


@dataclass(frozen=True, slots=True)
class DerivativeStatus:
    asset: str
    id: str
    kind: str = ""
    user_id: str | None = None
    project_id: str | None = None
    finished_at: dt.datetime | None = None
    """When what the row calls for last changed."""
    created_at: dt.datetime | None = None
    """When the row of a generation was."""
    revision: str = ""
    """Of what is ready, else what the row and the settings call for now."""
    key: str | None = None
    """Object key of that revision; None: nothing is stored."""
    upstream: str | None = None
    """Revision of what it is made from, if that is a derivative and ready."""
    fingerprint: str | None = None
    """See `Derivative.fingerprint`."""
    waits_for: str | None = None
    """What must be ready first, in words."""
    state: State = State.NONE
    attempts: int = 0
    """Failures since the last success or retry."""
    all_attempts: int = 0
    """Failures since the last success, also before a retry and those that count as no attempt."""
    retry_at: dt.datetime | None = None
    """When a failed one is due again; None: at once."""
    error_class: str | None = None
    run_id: str | None = None
    event_id: int | None = None
    """The event that led to this state."""
    request_key: str = ""
    """See `History.request_key`."""
    was_made: bool = False
    """With `none`: another revision was made before."""
    outdated: bool = False
    """With `ready`: the user has set other parameters than those it was made with."""
    is_adopted: bool = False
    """With `ready`: an older system made it, so that no setting or version calls for another."""
    remake: "DerivativeStatus | None" = None
    """With `ready`: where the revision that is called for now stands, if it is another one or the
    last attempt to make it again failed."""
    source: str | None = None
    """Of a dead letter: object key of a generation, or its URL without secrets."""
    progress: ReportedProgress | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of the event and its time as `at`, set by `describe`."""

    @property
    def owner(self) -> str:
        """The user or project, for turns in the queue."""
        return self.user_id or self.project_id or ""

    @property
    def is_settled(self) -> bool:
        return self.state in (State.READY, State.DEAD)

    @property
    def is_missing(self) -> bool:
        """Whether it can be made."""
        return self.state in (State.NONE, State.FAILED) and not self.waits_for

    def is_due(self, now: dt.datetime) -> bool:
        return self.retry_at is None or self.retry_at <= now

    @property
    def wanted(self) -> "DerivativeStatus":
        """That of the revision which is called for now."""
        return self.remake or self

    @property
    def due_remake(self) -> "DerivativeStatus | None":
        """`remake`, if the backfill is to see to it."""
        return self.remake if self.outdated else None

    @property
    def is_unrecorded(self) -> bool:
        return self.state is State.NONE and not self.was_made

    @property
    def path(self) -> str | None:
        return self.key if self.state is State.READY else None

    @property
    def waits(self) -> str | None:
        """`waits_for` of what is still to be made."""
        return self.waits_for if self.state in (State.NONE, State.FAILED) else None

    @property
    def error(self) -> str | None:
        if self.error_class is None:
            return None
        is_unrecorded = self.error_class in RUN_ERRORS
        return explain(self.error_class).meaning if is_unrecorded else self.fact("error", str)

    @property
    def at(self) -> dt.datetime | None:
        return self.fact("at", dt.datetime)

    @property
    def ready_at(self) -> dt.datetime | None:
        return self.at if self.state is State.READY else None

    def fact(self, name: str, type_: type[T]) -> T | None:
        """None if there is none of that type."""
        value = self.facts.get(name)
        return value if isinstance(value, type_) else None


def derive_status(
    blank: DerivativeStatus, history: History, max_attempts: int, now: dt.datetime
) -> DerivativeStatus:
    """The status after the events of `history`; `blank` has what the row calls for.

    A run that was cancelled or crashed leaves no revision: it counts only if it was planned for
    this one, or after the row's last change. A change in the future counts as unknown.
    """
    blank = replace(blank, request_key=history.request_key)
    changed_at = blank.finished_at
    if changed_at is not None and changed_at > now:
        changed_at = None
    removed_at = _last(history.observations, ObservationKind.REMOVED)
    materialized = history.made
    materialized_at = materialized.event_id if materialized else 0
    made_at = max(materialized_at, removed_at)
    since = max(made_at, _last(history.observations, ObservationKind.RETRY))

    failed = [one for one in history.observations if one.kind is ObservationKind.FAILED]
    all_failures = [
        one for one in failed if one.event_id > made_at and one.revision == blank.revision
    ]
    failures = [one for one in all_failures if one.event_id > since]
    is_up_to_date = materialized is not None and materialized.revision == blank.revision
    explained = {one.run_id for one in failed}
    all_plans = [plan for plan in history.planned if plan.event_id > made_at and not plan.is_void]
    plans = [plan for plan in all_plans if plan.event_id > since]
    all_crashed = [
        plan
        for plan in all_plans
        # A run that had nothing to do is no attempt.
        if not is_up_to_date
        and plan.run_status == "FAILURE"
        and not plan.interrupted
        and not plan.precedes(changed_at, blank.revision)
        and plan.run_id not in explained
    ]
    crashed = [plan for plan in all_crashed if plan.event_id > since]
    unexplained = [plan for plan in plans if plan.run_id not in explained]
    in_flight = [plan for plan in unexplained if plan.run_status in IN_FLIGHT]
    cancelled = [
        plan
        for plan in unexplained
        # Only the last run's: others were started since.
        if plan is plans[-1]
        and plan.run_status == "CANCELED"
        and not plan.precedes(changed_at, blank.revision)
    ]
    attempts = sum(not one.blameless for one in failures) + len(crashed)
    key = blank.key if materialized and materialized.is_stored else None
    ready = replace(blank, state=State.READY, event_id=materialized_at, key=key)
    blank = replace(blank, all_attempts=len(all_failures) + len(all_crashed))
    last = max([*failures, *crashed, *cancelled], key=lambda one: one.event_id, default=None)

    if in_flight:
        # After a failure it is not ready: else no run would try again.
        is_made = is_up_to_date and not failures
        found = ready if is_made else replace(blank, state=State.PROCESSING, attempts=attempts)
        return replace(found, run_id=in_flight[-1].run_id)
    if last is None or (last in cancelled and is_up_to_date):
        # A restored row was made before, too: it is no old one that waits to be adopted.
        was_made = materialized is not None or removed_at > 0
        return ready if is_up_to_date else replace(blank, was_made=was_made)
    if isinstance(last, Observation):
        error_class = last.error_class
        is_final = last.permanent or _lasts_too_long(failures)
    else:
        error_class, is_final = (CANCELED, True) if last in cancelled else (RUN_FAILED, False)
    given_up = is_final or attempts >= max_attempts
    return replace(
        blank,
        state=State.DEAD if given_up else State.FAILED,
        attempts=attempts,
        error_class=error_class,
        run_id=last.run_id,
        event_id=last.event_id,
        retry_at=None if given_up else _retry_at(last, failures),
    )


def last_good(
    status: DerivativeStatus,
    made: Materialization,
    key: str | None,
    *,
    outdated: bool = False,
    is_adopted: bool = False,
) -> DerivativeStatus:
    """The status while `made`, which is of the same source, is served in place of what is to come.

    An attempt to make it anew that runs or failed takes nothing away.
    """
    return replace(
        status,
        state=State.READY,
        revision=made.revision or "",
        key=key,
        event_id=made.event_id,
        attempts=0,
        all_attempts=0,
        retry_at=None,
        error_class=None,
        run_id=None,
        was_made=False,
        outdated=outdated,
        is_adopted=is_adopted,
        remake=status,
    )


def _retry_at(
    last: Observation | PlannedRun, failures: Sequence[Observation]
) -> dt.datetime | None:
    """A crash is noticed late, and a fault of the surroundings is often over: both are due."""
    delaying = [
        one for one in failures if not one.blameless or one.error_class in _PATIENT | _COSTLY
    ]
    if last not in delaying or not isinstance(last, Observation) or last.at is None:
        return None
    # The longest delay is for what may be the file's fault.
    steps = _DELAYS[:-1] if last.blameless else _DELAYS
    if last.error_class in _COSTLY:
        steps = _DELAYS[:3]
    return last.at + steps[min(len(delaying), len(steps)) - 1]


def _lasts_too_long(failures: Sequence[Observation]) -> bool:
    latest = takewhile(lambda one: one.error_class in _PATIENT, reversed(failures))
    times = [one.at for one in latest if one.at is not None]
    return bool(times) and times[0] - times[-1] > _LONGEST_PATIENCE


def _last(observations: Iterable[Observation], kind: ObservationKind) -> int:
    return max((one.event_id for one in observations if one.kind is kind), default=0)
