"""Targets that hang, fail or come back: they hold up nobody else."""

import logging
import threading
from collections.abc import Iterator

import pytest

from lens_pipeline.alerts.targets import Message, Target, Tone, Undelivered, channels, standing
from lens_pipeline.settings import SettingsError
from lens_pipeline_tests.alerts.inboxes import Hook
from lens_pipeline_tests.pipeline.site import eventually

MESSAGE = Message("a title", "a body", Tone.FAILURE)


class Channel:
    """Fails as long as it is told to, or hangs."""

    name = "target 1 (test)"

    def __init__(self, *, fails: int = 0, hangs: bool = False) -> None:
        self.fails = fails
        self.taken: list[Message] = []
        self.release = threading.Event()
        if not hangs:
            self.release.set()

    def send(self, message: Message) -> None:
        self.release.wait(20)
        if self.fails:
            self.fails -= 1
            raise Undelivered("refused")
        self.taken.append(message)


@pytest.fixture
def started() -> Iterator[list[Target]]:
    made: list[Target] = []
    yield made
    for target in made:
        target.stop()


def _target(started: list[Target], channel: Channel) -> Target:
    target = Target(channel, first_wait=0.01)
    target.start()
    started.append(target)
    return target


def test_one_that_fails_is_tried_until_it_takes_the_message(
    started: list[Target], caplog: pytest.LogCaptureFixture
) -> None:
    channel = Channel(fails=3)
    target = _target(started, channel)
    with caplog.at_level(logging.INFO):
        delivery = target.offer(MESSAGE)
        assert delivery.arrived.wait(10)
    assert channel.taken == [MESSAGE]
    assert target.problem is None
    # Told once, not for each try.
    assert [r.getMessage() for r in caplog.records] == [
        "alerts: target 1 (test): refused: tried again",
        "alerts: target 1 (test): works again",
    ]


def test_one_that_hangs_delays_no_other_and_keeps_no_more_than_it_may(
    started: list[Target],
) -> None:
    hanging, well = Channel(hangs=True), Channel()
    slow, quick = _target(started, hanging), _target(started, well)
    for number in range(50):
        slow.offer(Message(f"title {number}", "", Tone.INFO))
    assert quick.offer(MESSAGE).arrived.wait(10)
    hanging.release.set()
    eventually(lambda: hanging.taken and hanging.taken[-1].title == "title 49", 10)
    assert len(hanging.taken) <= 22


def test_a_message_that_is_withdrawn_is_not_sent(started: list[Target]) -> None:
    channel = Channel(fails=5)
    target = _target(started, channel)
    channel.release.clear()
    delivery = target.offer(MESSAGE)
    delivery.withdrawn.set()
    last = target.offer(Message("the last", "", Tone.INFO))
    channel.release.set()
    assert last.arrived.wait(10)
    assert [message.title for message in channel.taken] == ["the last"]


def test_an_address_that_nobody_answers_tells_no_secret(
    started: list[Target], caplog: pytest.LogCaptureFixture
) -> None:
    with Hook() as hook:
        url = hook.url
    (channel,) = channels([url])
    target = Target(channel, first_wait=0.01)
    target.start()
    started.append(target)
    with caplog.at_level(logging.DEBUG):
        target.offer(MESSAGE)
        eventually(lambda: target.problem, 20, "the failure")
    assert "target 1 (json): " in standing([target])
    assert "hook-secret" not in standing([target]) + caplog.text
    assert "hook-password" not in standing([target]) + caplog.text


def test_what_apprise_does_not_understand_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match="place 2") as raised:
        channels(["json://127.0.0.1/", "nosuchservice://my-secret"])
    assert "my-secret" not in str(raised.value)
