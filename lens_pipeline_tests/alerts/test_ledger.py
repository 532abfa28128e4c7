"""Who is told what, and how often."""

import pytest

from lens_pipeline.alerts.ledger import Ledger, Problem, Rhythm, Word

RHYTHM = Rhythm(hold=120, settle=60, again=3600, more=300, apart=30, most_an_hour=4)
DISK = Problem("disk", "the disk is nearly full")
BROKER = Problem("broker", "the broker cannot be reached", is_held=True)


def _words(ledger: Ledger, now: float) -> list[tuple[str, Word]]:
    """What is due, which is then told."""
    notices = ledger.due(now)
    if notices:
        ledger.tell(notices, now)
    return [(notice.problem.key, notice.word) for notice in notices]


def test_a_problem_is_told_once_and_its_end_once() -> None:
    ledger = Ledger(RHYTHM)
    told = []
    for now in range(0, 600, 5):
        ledger.see([DISK] if now < 300 else [], (), now)
        told += [(now, *one) for one in _words(ledger, now)]
    assert told == [(0, "disk", Word.BEGAN), (360, "disk", Word.OVER)]


def test_what_could_not_be_sent_is_due_again() -> None:
    ledger = Ledger(RHYTHM)
    ledger.see([DISK], (), 0)
    assert ledger.due(0)
    assert ledger.due(5)


def test_what_ends_while_its_message_is_under_way_is_told_to_be_over() -> None:
    ledger = Ledger(RHYTHM)
    ledger.see([DISK], (), 0)
    notices = ledger.due(0)
    ledger.see([], (), 10)
    ledger.tell(notices, 20)
    ledger.see([], (), 30)
    assert _words(ledger, 40) == []
    assert _words(ledger, 90) == [("disk", Word.OVER)]


def test_what_comes_back_while_its_end_is_under_way_is_told_anew() -> None:
    ledger = Ledger(RHYTHM)
    ledger.see([DISK], (), 0)
    assert _words(ledger, 0)
    ledger.see([], (), 100)
    notices = ledger.due(200)
    ledger.see([DISK], (), 210)
    ledger.tell(notices, 220)
    ledger.see([DISK], (), 260)
    assert _words(ledger, 260) == [("disk", Word.BEGAN)]


def test_a_restart_of_a_service_wakes_nobody() -> None:
    ledger = Ledger(RHYTHM)
    told = []
    for now in range(0, 900, 5):
        ledger.see([BROKER] if now % 150 < 100 else [], (), now)
        told += _words(ledger, now)
    assert told == []


def test_a_service_that_stays_away_is_told_after_a_while() -> None:
    ledger = Ledger(RHYTHM)
    ledger.see([BROKER], (), 0)
    assert _words(ledger, 115) == []
    assert _words(ledger, 120) == [("broker", Word.BEGAN)]


def test_flapping_is_one_problem() -> None:
    ledger = Ledger(RHYTHM)
    told = []
    for now in range(0, 1200, 5):
        ledger.see([DISK] if now % 40 < 20 else [], (), now)
        told += _words(ledger, now)
    assert told == [("disk", Word.BEGAN)]


def test_many_problems_are_one_message_and_messages_are_few() -> None:
    ledger = Ledger(RHYTHM)
    ledger.see([Problem(f"p{n}", "x") for n in range(20)], (), 0)
    assert len(_words(ledger, 0)) == 20
    messages = 1
    for now in range(1, 3600):
        ledger.see([Problem(f"p{now // 40}-{n}", "x") for n in range(3)], (), now)
        messages += bool(_words(ledger, now))
    assert messages == RHYTHM.most_an_hour


def test_what_goes_on_is_told_again_after_hours() -> None:
    ledger = Ledger(RHYTHM)
    told = []
    for now in range(0, 7300, 100):
        ledger.see([DISK], (), now)
        told += [(now, word) for _, word in _words(ledger, now)]
    assert told == [(0, Word.BEGAN), (3600, Word.GOES_ON), (7200, Word.GOES_ON)]


def test_what_is_not_known_is_neither_begun_nor_over() -> None:
    ledger = Ledger(RHYTHM)
    ledger.see([DISK], (), 0)
    assert _words(ledger, 0)
    for now in range(100, 1000, 100):
        ledger.see([], {"disk"}, now)
        assert _words(ledger, now) == []


def test_more_of_the_same_is_told_together_after_a_while() -> None:
    ledger = Ledger(RHYTHM)

    def see(now: float, *marks: str) -> list[frozenset[str]]:
        ledger.see([Problem("dead", "x", marks=frozenset(marks))], (), now)
        notices = ledger.due(now)
        ledger.tell(notices, now)
        return [notice.new for notice in notices]

    assert see(0, "a", "b") == [{"a", "b"}]
    assert see(100, "a", "b", "c") == []
    assert see(310, "a", "b", "c", "d") == [{"c", "d"}]
    # One that was mended and died again has another mark.
    assert see(700, "a2", "c") == [{"a2"}]
    assert see(1100, "c") == []


def test_nothing_is_told_twice_after_a_restart() -> None:
    first = Ledger(RHYTHM)
    first.see([DISK, Problem("dead", "x", marks=frozenset("ab"))], (), 0)
    assert len(_words(first, 0)) == 2
    second = Ledger(RHYTHM, first.dump())
    second.see([DISK, Problem("dead", "x", marks=frozenset("ab"))], (), 100)
    assert _words(second, 100) == []
    second.see([], (), 200)
    assert sorted(_words(second, 300)) == [("dead", Word.OVER), ("disk", Word.OVER)]


@pytest.mark.parametrize("known", [True, False])
def test_who_hands_over_ends_what_nobody_else_knows_of(known: bool) -> None:
    first = Ledger(RHYTHM)
    first.see([DISK], (), 0)
    _words(first, 0)
    first.forget({"disk"} if known else ())
    first.see([], (), 100)
    assert _words(first, 200) == ([] if known else [("disk", Word.OVER)])
