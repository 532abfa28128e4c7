"""What is told, and how often."""

import json

import pytest

from lens_pipeline.monitoring.alerts.state import AlertState, Notice, Problem, Word

DISK = Problem("disk", "the disk is nearly full")
BROKER = Problem("broker", "the broker cannot be reached", is_held=True)
HOUR = 3600


def _told(state: AlertState, now: float, *problems: Problem, unknown: str = "") -> list[Notice]:
    """What is due, and counts as told."""
    notices = state.due(problems, {unknown}, now)
    if notices:
        state.tell(notices, now)
    return notices


def _words(
    state: AlertState, now: float, *problems: Problem, unknown: str = ""
) -> list[tuple[str, Word]]:
    return [(n.problem.key, n.word) for n in _told(state, now, *problems, unknown=unknown)]


def test_a_problem_is_told_once_and_its_end_once() -> None:
    state, told = AlertState(), []
    for now in range(0, 600, 5):
        told += [(now, *one) for one in _words(state, now, *[DISK][: now < 300])]
    assert told == [(0, "disk", Word.BEGAN), (360, "disk", Word.OVER)]
    assert state.open == 0


def test_what_could_not_be_sent_is_due_again() -> None:
    state = AlertState()
    for now in (0, 5):
        (notice,) = state.due([DISK], (), now)
        assert (notice.word, notice.since) == (Word.BEGAN, 0)


def test_what_ends_before_its_message_was_sent_is_not_told() -> None:
    state = AlertState()
    assert state.due([DISK], (), 0)
    assert _words(state, 10) == _words(state, 200) == []


def test_a_restart_of_a_service_wakes_nobody() -> None:
    state = AlertState()
    for now in range(0, 900, 5):
        assert _words(state, now, *[BROKER][: now % 150 < 100]) == []


def test_a_service_that_stays_away_is_told_after_a_while() -> None:
    state = AlertState()
    assert _words(state, 0, BROKER) == _words(state, 115, BROKER) == []
    assert _words(state, 120, BROKER) == [("broker", Word.BEGAN)]


def test_flapping_is_one_problem() -> None:
    state, told = AlertState(), []
    for now in range(0, 1200, 5):
        told += _words(state, now, *[DISK][: now % 40 < 20])
    assert told == [("disk", Word.BEGAN)]


def test_many_problems_are_one_message_and_messages_are_few() -> None:
    """Nor is one lost to the limit."""
    state = AlertState()
    problems = [Problem(f"p{n}", "x") for n in range(20)]
    assert len(_told(state, 0, *problems)) == 20
    messages = 1
    for minute in range(1, 60):
        problems.append(Problem(f"new{minute}", "x"))
        messages += bool(_told(state, 60 * minute, *problems))
    assert messages == 12
    assert len(_told(state, HOUR, *problems)) == 59 - 11


def test_what_goes_on_is_told_again_after_hours() -> None:
    state, told = AlertState(), []
    for now in range(0, 13 * HOUR, 100):
        told += [(now // HOUR, word) for _, word in _words(state, now, DISK)]
    assert told == [(0, Word.BEGAN), (6, Word.GOES_ON), (12, Word.GOES_ON)]


def test_what_is_not_known_is_neither_begun_nor_over() -> None:
    state = AlertState()
    assert _words(state, 0, DISK)
    for now in range(100, 1000, 100):
        assert _words(state, now, unknown="disk") == []


def test_nothing_is_told_twice_after_a_restart() -> None:
    first, second = AlertState(), AlertState()
    assert _words(first, 0, DISK)
    second.restore(first.model_dump_json())
    assert _words(second, 100, DISK) == _words(second, 200) == []
    assert _words(second, 260) == [("disk", Word.OVER)]


def test_the_limit_outlives_a_restart() -> None:
    first, second = AlertState(), AlertState()
    for number in range(12):
        assert _words(first, number, *[Problem(f"p{n}", "x") for n in range(number + 1)])
    second.restore(first.model_dump_json())
    assert _words(second, 100, DISK) == []


def test_what_was_told_without_the_row_is_kept_with_it() -> None:
    """An outage of the database that was told, and whose end would not be."""
    state = AlertState()
    assert _words(state, 0, DISK)
    state.restore(AlertState().model_dump_json())
    assert _words(state, 100) == []
    assert _words(state, 160) == [("disk", Word.OVER)]


def test_a_row_of_the_version_before_is_read() -> None:
    entry = {"text": "x", "since": 5.0, "told_at": 6.0, "gone_since": None, "marks": ["a"]}
    state = AlertState()
    state.restore(json.dumps({"problems": {"disk": entry}, "sent": [6.0]}))
    assert _words(state, 10, DISK) == []
    # Which reads ours by these names, and knows no others.
    row = json.loads(state.model_dump_json())
    assert row.keys() == {"problems", "sent"}
    assert row["problems"]["disk"].keys() <= entry.keys()


@pytest.mark.parametrize("row", ["", "nonsense", "[]", '{"problems": {"disk": 1}}'])
def test_a_row_that_is_not_understood_harms_nothing(row: str) -> None:
    state = AlertState()
    state.restore(row)
    assert _words(state, 0, DISK) == [("disk", Word.BEGAN)]
