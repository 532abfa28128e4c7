"""Targets that hang, fail or come back: they delay no other."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from lens_pipeline.monitoring.alerts.delivery import connect_targets, deliver
from lens_pipeline.monitoring.alerts.messages import Message
from lens_pipeline.settings import SettingsError
from lens_pipeline_tests.monitoring.alerts.receivers import Hook
from lens_pipeline_tests.support.site import eventually

MESSAGE = Message("a title", "a body", "failure")


@pytest.fixture
def hooks() -> Iterator[tuple[Hook, Hook]]:
    with Hook() as first, Hook() as second:
        yield first, second


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_one_that_fails_is_tried_until_it_takes_the_message(
    hooks: tuple[Hook, Hook], stop: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    hook, _ = hooks
    hook.refuse = True
    (target,) = targets = connect_targets([hook.url])
    done: list[bool] = []
    with caplog.at_level(logging.INFO):
        thread = threading.Thread(
            target=lambda: done.append(deliver(targets, MESSAGE, stop, first_wait=0.01))
        )
        thread.start()
        eventually(lambda: hook.calls >= 3, 10)
        assert target.problem
        hook.refuse = False
        thread.join(10)
    assert done == [True]
    assert [one["title"] for one in hook.received] == ["a title"]
    assert target.problem is None
    # Told once, not for each try; and without a secret.
    first, second = (r.getMessage() for r in caplog.records if r.name.endswith("alerts.delivery"))
    assert first.startswith("alerts: target 1 (json): ")
    assert second == "alerts: target 1 (json): works again"
    assert "hook-" not in caplog.text


def test_one_that_hangs_delays_no_other_and_gets_its_messages_in_order(
    hooks: tuple[Hook, Hook], stop: threading.Event
) -> None:
    slow, quick = hooks
    slow.delay = 2.0
    targets = connect_targets([slow.url, quick.url])
    started = time.monotonic()
    assert deliver(targets, MESSAGE, stop)
    assert deliver(targets, Message("the end", "a body", "success"), stop)
    assert time.monotonic() - started < 2
    assert [one["title"] for one in quick.received] == ["a title", "the end"]
    eventually(lambda: len(slow.received) == 2, 10)
    assert [one["title"] for one in slow.received] == ["a title", "the end"]


def test_one_that_is_gone_holds_up_no_end_of_the_process(stop: threading.Event) -> None:
    """And its address tells no secret."""
    with Hook() as hook:
        url = hook.url
    (target,) = targets = connect_targets([url])
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(deliver(targets, MESSAGE, stop)))
    thread.start()
    problem = eventually(lambda: target.problem, 20, "the failure")
    assert "hook-" not in problem
    stop.set()
    thread.join(3)
    assert done == [False]


def test_what_apprise_does_not_understand_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match="place 2") as raised:
        connect_targets(["json://127.0.0.1/", "nosuchservice://my-secret"])
    assert "my-secret" not in str(raised.value)
