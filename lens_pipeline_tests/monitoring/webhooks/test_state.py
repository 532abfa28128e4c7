"""What is sent next to a target, and when it is tried again."""

import datetime as dt

import pytest

from lens_pipeline.event_log.changes import Position
from lens_pipeline.monitoring.webhooks.follower import Pace
from lens_pipeline.monitoring.webhooks.messages import WebhookMessage
from lens_pipeline.monitoring.webhooks.state import Delivery, TargetState, read_state

DAY = 86400.0
ASSETS = ("preview", "master_video")
PLACE = Position((5, 7), 9)


def message(number: int, subject: str) -> WebhookMessage:
    at = dt.datetime.fromtimestamp(number, dt.UTC)
    data = {"id": subject, "kind": "photo"}
    return WebhookMessage(id=f"msg_{number}", type="generation.ready", timestamp=at, data=data)


@pytest.fixture
def state() -> TargetState:
    """Two subjects, the first with two messages."""
    made = TargetState()
    made.add([message(1, "a"), message(2, "a"), message(3, "b")], ASSETS, PLACE)
    return made


def _due(state: TargetState, now: float) -> list[str]:
    return [one.message.id for one in state.due(now, 10)]


def _first(state: TargetState, now: float) -> Delivery:
    return state.due(now, 1)[0]


def test_a_later_message_of_a_subject_waits_for_the_earlier(state: TargetState) -> None:
    assert _due(state, 0) == ["msg_1", "msg_3"]
    state.refuse(_first(state, 0), "answers 500", pause=10, now=0)
    assert _due(state, 9) == ["msg_3"]
    assert _due(state, 10) == ["msg_1", "msg_3"]
    state.take(_first(state, 10), now=10)
    assert _due(state, 10) == ["msg_2", "msg_3"]


def test_what_failed_in_an_outage_is_due_at_its_end(state: TargetState) -> None:
    for one in state.due(100, 2):
        state.refuse(one, "cannot be reached", pause=300, now=100)
    state.add([message(4, "c")], ASSETS, PLACE)
    (new,) = state.due(200, 10)
    state.take(new, now=200)
    assert _due(state, 200) == ["msg_1", "msg_3"]
    # One that is refused alone is not tried with every success of the others.
    state.refuse(_first(state, 200), "answers 400", pause=300, now=200)
    state.take(state.due(201, 1)[0], now=201)
    state.add([message(5, "d")], ASSETS, PLACE)
    state.take(state.due(202, 1)[0], now=202)
    assert _due(state, 203) == []


def test_only_what_a_target_refuses_while_it_takes_others_is_given_up(state: TargetState) -> None:
    first, other = state.due(100, 2)
    assert not state.refuse(first, "answers 400", pause=1, now=100)
    assert not state.refuse(first, "answers 400", pause=1, now=100 + 5 * DAY)
    # Three days count from the end of an outage.
    state.take(other, now=101 + 5 * DAY)
    assert not state.refuse(first, "answers 429", pause=1, now=102 + 5 * DAY)
    stored = read_state(state.model_dump_json())
    first = stored.waiting[0]
    assert not stored.refuse(first, "answers 400", pause=1, now=102 + 7 * DAY)
    assert stored.refuse(first, "answers 400", pause=1, now=103 + 8 * DAY)
    assert _due(stored, 104 + 8 * DAY) == ["msg_2"]


def test_the_end_of_an_outage_does_not_shorten_what_a_target_wishes(state: TargetState) -> None:
    first, other = state.due(100, 2)
    state.refuse(first, "answers 429", pause=1, now=100, wished=3600)
    state.take(other, now=101)
    assert _due(state, 102) == []
    assert _due(state, 3700) == ["msg_1"]


def test_people_are_told_of_a_target_that_takes_nothing(state: TargetState) -> None:
    state.refuse(_first(state, 1000), "answers 502", pause=1, now=1000)
    assert state.trouble(1500) is None
    told = "has not taken messages for 15 min, 3 wait here: answers 502"
    assert read_state(state.model_dump_json()).trouble(1900) == told
    state.take(state.due(1950, 2)[1], now=1950)
    told = "has refused a message for 17 min and takes others, 2 wait here: answers 502"
    assert state.trouble(2000) == told
    assert str(state.trouble(3000)).startswith("has not taken messages for 18 min, 2 wait")
    state.is_gone = True
    assert "410" in str(state.trouble(1900))
    assert _due(state, 1900) == []
    state.revive()
    assert _due(state, 1900) == ["msg_1"]


def test_a_target_begins_at_the_end_and_goes_on_where_it_was(state: TargetState) -> None:
    assert TargetState().place(ASSETS, Position((50, 70), 90)) == Position((50, 70), 90)
    assert state.place(ASSETS, Position((50, 70), 90)) == PLACE
    # An asset of a later version, and a log that was restored.
    later = ("preview", "new", "master_video")
    assert state.place(later, Position((4, 60, 70), 8)) == Position((4, 60, 7), 8)
    assert read_state("no JSON") == TargetState()


def test_a_replay_skips_nothing_that_was_not_read(state: TargetState) -> None:
    end = Position((50, 70), 90)
    state.rewind(ASSETS, end)
    assert state.place(ASSETS, end) == PLACE
    state.rewind(ASSETS, Position((0, 6), 6))
    assert state.place(ASSETS, end) == Position((0, 6), 6)


def test_a_replay_keeps_what_waits_in_the_order_of_the_log() -> None:
    state = TargetState()
    state.add([message(4, "a"), message(5, "b")], ASSETS, PLACE)
    state.rewind(ASSETS, Position((2, 2), 2))
    # A run that crashed is not read again if another one has made the file since.
    state.add([message(3, "a"), message(5, "b")], ASSETS, PLACE)
    assert [one.message.id for one in state.waiting] == ["msg_3", "msg_4", "msg_5"]
    assert _due(state, 0) == ["msg_3", "msg_5"]


def test_pauses_grow_to_a_limit() -> None:
    pace = Pace()
    assert 0.5 <= pace.pause(0) <= 1
    assert 4 <= pace.pause(3) <= 8
    assert 150 <= pace.pause(10_000) <= 300
