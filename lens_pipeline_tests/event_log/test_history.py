"""The state of one derivative, from what the event log holds about it."""

import datetime as dt
from dataclasses import replace

import pytest

from lens_pipeline.event_log.history import (
    DerivativeStatus,
    History,
    Materialization,
    Observation,
    ObservationKind,
    PlannedRun,
    State,
    derive_status,
    last_good,
)

NOW, BEFORE = "now", "before"


def status(history: History, max_attempts: int) -> DerivativeStatus:
    blank = DerivativeStatus("preview", "a", revision=NOW)
    return derive_status(blank, history, max_attempts, dt.datetime.now(dt.UTC))


def made(event_id: int, revision: str | None = NOW) -> Materialization:
    return Materialization(event_id, revision)


def failed(
    event_id: int, run: str = "r1", revision: str | None = NOW, permanent: bool = False
) -> Observation:
    return Observation(
        event_id, run, ObservationKind.FAILED, revision, "SourceUnavailable", permanent
    )


def marked(event_id: int, kind: ObservationKind) -> Observation:
    return Observation(event_id, "", kind, None, "", False)


def planned(event_id: int, run: str, status: str | None, interrupted: bool = False) -> PlannedRun:
    return PlannedRun(event_id, run, status, interrupted)


RETRY, REMOVED = ObservationKind.RETRY, ObservationKind.REMOVED

CASES: dict[str, tuple[History, State]] = {
    "nothing is known": (History(), State.NONE),
    "made": (History(made(2), planned=(planned(1, "r1", "SUCCESS"),)), State.READY),
    "made and its run is still at other files": (
        History(made(2), planned=(planned(1, "r1", "STARTED"),)),
        State.READY,
    ),
    "made and its run failed over another file": (
        History(made(2), planned=(planned(1, "r1", "FAILURE"),)),
        State.READY,
    ),
    "made and its run was cancelled later": (
        History(made(2), planned=(planned(1, "r1", "CANCELED"),)),
        State.READY,
    ),
    "made of an older source": (History(made(1, BEFORE)), State.NONE),
    "adopted without a revision": (History(made(1, None)), State.NONE),
    "queued": (History(planned=(planned(1, "r1", "QUEUED"),)), State.PROCESSING),
    "under way": (History(planned=(planned(1, "r1", "STARTED"),)), State.PROCESSING),
    "being cancelled": (History(planned=(planned(1, "r1", "CANCELING"),)), State.PROCESSING),
    "queued to be made again": (
        History(made(1), planned=(planned(2, "r2", "QUEUED"),)),
        State.READY,
    ),
    "queued again for a changed source": (
        History(made(1, BEFORE), planned=(planned(2, "r2", "QUEUED"),)),
        State.PROCESSING,
    ),
    "failed in a run that is still at other files": (
        History(observations=(failed(2),), planned=(planned(1, "r1", "STARTED"),)),
        State.FAILED,
    ),
    "failed": (
        History(observations=(failed(2),), planned=(planned(1, "r1", "FAILURE"),)),
        State.FAILED,
    ),
    "failed for good": (
        History(observations=(failed(2, permanent=True),), planned=(planned(1, "r1", "FAILURE"),)),
        State.DEAD,
    ),
    "failed with an older source": (
        History(observations=(failed(2, revision=BEFORE),), planned=(planned(1, "r1", "FAILURE"),)),
        State.NONE,
    ),
    "failed for good with an older source": (
        History(observations=(failed(2, revision=BEFORE, permanent=True),)),
        State.NONE,
    ),
    "failed three times": (
        History(observations=(failed(1), failed(2, "r2"), failed(3, "r3"))),
        State.DEAD,
    ),
    "failed twice, third attempt under way": (
        History(observations=(failed(1), failed(2, "r2")), planned=(planned(3, "r3", "STARTED"),)),
        State.PROCESSING,
    ),
    "failed and made since": (
        History(made(3), observations=(failed(1), failed(2, "r2"))),
        State.READY,
    ),
    "made, and a run that had nothing to do crashed": (
        History(made(1), planned=(planned(2, "r2", "FAILURE"),)),
        State.READY,
    ),
    "made, failed since, and tried again now": (
        History(made(1), observations=(failed(2, "r2"),), planned=(planned(3, "r3", "STARTED"),)),
        State.PROCESSING,
    ),
    "made of an older source, and its run crashed": (
        History(made(1, BEFORE), planned=(planned(2, "r2", "FAILURE"),)),
        State.FAILED,
    ),
    "made and failed since": (History(made(1), observations=(failed(2, "r2"),)), State.FAILED),
    "its run crashed": (History(planned=(planned(1, "r1", "FAILURE"),)), State.FAILED),
    "its runs crashed three times": (
        History(planned=tuple(planned(n, f"r{n}", "FAILURE") for n in (1, 2, 3))),
        State.DEAD,
    ),
    "crashes and failures add up": (
        History(
            observations=(failed(2), failed(6, "r3")),
            planned=(
                planned(1, "r1", "FAILURE"),
                planned(3, "r2", "FAILURE"),
                planned(5, "r3", "FAILURE"),
            ),
        ),
        State.DEAD,
    ),
    "its worker was stopped": (
        History(planned=(planned(1, "r1", "FAILURE", interrupted=True),)),
        State.NONE,
    ),
    "its worker was stopped often": (
        History(planned=tuple(planned(n, f"r{n}", "FAILURE", True) for n in range(1, 9))),
        State.NONE,
    ),
    "its run was deleted": (History(planned=(planned(1, "r1", None),)), State.NONE),
    "its run ended well without it": (
        History(planned=(planned(1, "r1", "SUCCESS"),)),
        State.NONE,
    ),
    "cancelled": (History(planned=(planned(1, "r1", "CANCELED"),)), State.DEAD),
    "cancelled by Dagster, because its backfill failed": (
        History(planned=(planned(1, "r1", "CANCELED", interrupted=True),)),
        State.NONE,
    ),
    "cancelled after it had failed": (
        History(observations=(failed(2),), planned=(planned(1, "r1", "CANCELED"),)),
        State.FAILED,
    ),
    "cancelled while it was made again": (
        History(made(1), planned=(planned(2, "r2", "CANCELED"),)),
        State.READY,
    ),
    "cancelled, then started again": (
        History(planned=(planned(1, "r1", "CANCELED"), planned(2, "r2", "QUEUED"))),
        State.PROCESSING,
    ),
    "cancelled while an earlier run goes on": (
        History(planned=(planned(1, "r1", "STARTED"), planned(2, "r2", "CANCELED"))),
        State.PROCESSING,
    ),
    "cancelled beside a run that failed later": (
        History(
            observations=(failed(3, "r1"),),
            planned=(planned(1, "r1", "FAILURE"), planned(2, "r2", "CANCELED")),
        ),
        State.FAILED,
    ),
    "failed, then cancelled": (
        History(
            observations=(failed(2, "r1"),),
            planned=(planned(1, "r1", "FAILURE"), planned(3, "r2", "CANCELED")),
        ),
        State.DEAD,
    ),
    "cancelled and retried": (
        History(observations=(marked(2, RETRY),), planned=(planned(1, "r1", "CANCELED"),)),
        State.NONE,
    ),
    "failed for good and retried": (
        History(observations=(failed(1, permanent=True), marked(2, RETRY))),
        State.NONE,
    ),
    "retried and failed again": (
        History(observations=(failed(1), failed(2, "r2"), marked(3, RETRY), failed(4, "r3"))),
        State.FAILED,
    ),
    "removed": (History(made(1), observations=(marked(2, REMOVED),)), State.NONE),
    "removed and made again": (History(made(3), observations=(marked(2, REMOVED),)), State.READY),
    "removed and failed since": (
        History(made(1), observations=(marked(2, REMOVED), failed(3, "r2"))),
        State.FAILED,
    ),
}


@pytest.mark.parametrize(("history", "state"), CASES.values(), ids=CASES.keys())
def test_the_state_follows_from_the_history(history: History, state: State) -> None:
    """Command line, web page and backfill that disagree about one file."""
    assert status(history, max_attempts=3).state is state


def test_a_crash_is_one_attempt_however_many_marks_its_run_left() -> None:
    """A dead letter after half the attempts."""
    history = History(observations=(failed(2),), planned=(planned(1, "r1", "FAILURE"),))
    found = status(history, max_attempts=3)
    assert (found.state, found.attempts, found.error_class) == (
        State.FAILED,
        1,
        "SourceUnavailable",
    )
    assert (found.run_id, found.event_id) == ("r1", 2)


def test_the_latest_failure_is_the_one_that_is_told() -> None:
    """A reason that was mended last week."""
    history = History(
        observations=(failed(2),),
        planned=(planned(1, "r1", "FAILURE"), planned(3, "r2", "FAILURE")),
    )
    told = status(history, max_attempts=3)
    assert (told.attempts, told.error_class, told.run_id) == (2, "RunFailed", "r2")
    assert told.event_id == 3


def test_a_retry_forgets_no_attempt() -> None:
    """People who tried again three times read of one attempt."""
    before = (failed(2, "r1"), marked(4, RETRY), marked(7, RETRY))
    crashed = planned(5, "r2", "FAILURE")
    found = status(History(observations=(*before, failed(8, "r3")), planned=(crashed,)), 3)
    assert (found.attempts, found.all_attempts) == (1, 3)
    done = History(made(9), observations=(*before, failed(8, "r3")), planned=(crashed,))
    assert status(done, 3).all_attempts == 0


@pytest.mark.parametrize(
    ("history", "remake"),
    [
        (History(made(1, BEFORE)), State.NONE),
        (History(made(1, BEFORE), planned=(planned(2, "r2", "STARTED"),)), State.PROCESSING),
        (History(made(1, BEFORE), observations=(failed(2),)), State.FAILED),
        (History(made(1, BEFORE), observations=(failed(2, permanent=True),)), State.DEAD),
        (History(made(1, BEFORE), planned=(planned(2, "r2", "CANCELED"),)), State.DEAD),
        # It was forced.
        (History(made(1), observations=(failed(2, permanent=True),)), State.DEAD),
    ],
    ids=["not asked for", "under way", "failed", "source gone", "cancelled", "forced"],
)
def test_a_remake_takes_nothing_away(history: History, remake: State) -> None:
    """A picture that vanishes because its quality was to be better."""
    assert history.made is not None
    found = last_good(status(history, 3), history.made, "old.webp", outdated=True)
    assert (found.state, found.path, found.event_id) == (State.READY, "old.webp", 1)
    assert (found.error_class, found.attempts, found.run_id) == (None, 0, None)
    assert (found.wanted.state, found.wanted.revision) == (remake, NOW)
    assert found.due_remake is found.remake


def test_what_was_removed_is_not_served() -> None:
    """An address of an object that is gone."""
    assert History(made(1, BEFORE), observations=(marked(2, REMOVED),)).made is None


START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def after(minutes: float, blameless: bool = False, error: str = "SourceUnavailable") -> Observation:
    number = round(minutes) + 1
    at = START + dt.timedelta(minutes=minutes)
    return Observation(
        number, f"r{number}", ObservationKind.FAILED, NOW, error, False, blameless, at
    )


def next_minutes(*failures: Observation) -> float | None:
    """Minutes from the last failure to the next attempt."""
    found = status(History(observations=failures), max_attempts=100)
    at = failures[-1].at
    return (found.retry_at - at).total_seconds() / 60 if found.retry_at and at else None


def test_what_needs_no_object_is_ready_without_one() -> None:
    """A key at which there is nothing."""
    blank = DerivativeStatus("playable_video", "a", revision=NOW, key="u1/playable/a_now.mp4")
    found = [
        derive_status(
            blank, History(Materialization(1, NOW, is_stored=one)), 5, dt.datetime.now(dt.UTC)
        )
        for one in (True, False)
    ]
    assert [one.state for one in found] == [State.READY, State.READY]
    assert [one.path for one in found] == [blank.key, None]


def test_attempts_are_spread_over_hours() -> None:
    """Every file of a source host that is away for half an hour given up on."""
    failures = [after(minutes) for minutes in range(9)]
    delays = [next_minutes(*failures[: number + 1]) for number in range(9)]
    assert delays == [1, 5, 15, 30, 60, 360, 1440, 1440, 1440]
    found = status(History(observations=tuple(failures[:8])), max_attempts=8)
    assert (found.state, found.retry_at) == (State.DEAD, None)


@pytest.mark.parametrize("error", ["HostUnreachable", "EncoderDied"])
def test_what_may_concern_one_file_is_delayed_and_uses_up_no_attempt(error: str) -> None:
    """A file that is given up on as its host is away, or one whose decoders are killed for ever."""
    away = [after(minutes, True, error) for minutes in (0, 6, 22, 53, 114, 480, 1440)]
    delays = [next_minutes(*away[: number + 1]) for number in range(7)]
    assert delays == [1, 5, 15, 30, 60, 360, 360]
    found = status(History(observations=tuple(away)), max_attempts=1)
    assert (found.state, found.attempts) == (State.FAILED, 0)
    # It may never come back.
    gone = (*away, after(3 * 1440 + 1, True, error))
    assert status(History(observations=gone), max_attempts=1).state is State.DEAD


def test_patience_ends_only_with_what_lasts() -> None:
    """A file that is given up on at the first blip of its host, days after another failure."""
    found = status(
        History(observations=(after(0), after(4 * 1440, True, "HostUnreachable"))), max_attempts=8
    )
    assert (found.state, found.attempts) == (State.FAILED, 1)


@pytest.mark.parametrize(("run", "state"), [("CANCELED", State.DEAD), ("FAILURE", State.FAILED)])
def test_a_change_of_the_row_that_changes_no_revision_is_none(run: str, state: State) -> None:
    """A run for each favourite's click on a file that was cancelled, or that kills its worker."""
    blank = DerivativeStatus("preview", "a", revision=NOW, finished_at=START)
    plan = PlannedRun(1, "r1", run, at=START - dt.timedelta(hours=1))
    found = {
        revision: derive_status(
            blank, History(planned=(replace(plan, revision=revision),)), 8, dt.datetime.now(dt.UTC)
        )
        for revision in (NOW, BEFORE, None)
    }
    assert {revision: one.state for revision, one in found.items()} == {
        NOW: state, BEFORE: State.NONE, None: State.NONE,
    }  # fmt: skip


def test_a_restored_row_is_not_one_that_was_never_made() -> None:
    """Restored rows that wait for their adoption, like those of an older system."""
    history = History(made(1), observations=(marked(2, ObservationKind.REMOVED),))
    found = status(history, max_attempts=8)
    assert (found.state, found.is_unrecorded) == (State.NONE, False)


def test_a_file_that_cannot_be_signed_is_not_made_again_each_minute() -> None:
    """An expired certificate for which each film is encoded over and over."""
    unsigned = [after(1440 * n, True, "SigningUnavailable") for n in range(5)]
    assert [next_minutes(*unsigned[: n + 1]) for n in range(5)] == [1, 5, 15, 15, 15]
    found = status(History(observations=tuple(unsigned)), max_attempts=1)
    assert (found.state, found.attempts) == (State.FAILED, 0)


def test_a_fault_of_the_surroundings_delays_nothing() -> None:
    """A store that was down for a minute, and files that wait for hours after that."""
    assert next_minutes(*[after(n, True, "StoreUnavailable") for n in range(9)]) is None


def test_one_attempt_is_enough_for_a_dead_letter_if_so_configured() -> None:
    """A limit that is off by one."""
    history = History(observations=(failed(1),))
    assert status(history, max_attempts=1).state is State.DEAD
    assert status(history, max_attempts=2).state is State.FAILED
