"""What one target is sent while some of its messages hang; no server."""

import asyncio
import threading
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from lens_pipeline.event_log.changes import Position
from lens_pipeline.monitoring.alerts import delivery
from lens_pipeline.monitoring.webhooks.figures import Figures
from lens_pipeline.monitoring.webhooks.follower import Follower, Pace
from lens_pipeline.monitoring.webhooks.messages import WebhookMessage
from lens_pipeline.monitoring.webhooks.state import read_state
from lens_pipeline.monitoring.webhooks.targets import (
    MessageTarget,
    NotifyTarget,
    SendResult,
    http_client,
    trial,
)
from lens_pipeline.settings import Settings
from lens_pipeline_tests.monitoring.webhooks.test_state import message
from lens_pipeline_tests.support.site import eventually

pytestmark = pytest.mark.slow


class _Target(MessageTarget):
    """It hangs at subject 0, raises at subject 1, and takes the others."""

    def __init__(self) -> None:
        super().__init__("target", "http://target.test/")
        self.taken: list[str] = []

    async def send(self, message: WebhookMessage, client: Any) -> SendResult:
        if message.data["id"] == "0":
            await asyncio.sleep(60)
        if message.data["id"] == "1":
            "\ud800".encode()
        await asyncio.sleep(0)
        self.taken.append(message.id)
        return SendResult()


class _Log:
    assets = ("preview",)

    def __init__(self, count: int) -> None:
        self.messages = [message(number, str(number)) for number in range(count)]

    def latest(self) -> Position:
        return Position((0,), 0)

    def read(self, after: Position, limit: int) -> tuple[list[WebhookMessage], Position, bool]:
        found, self.messages = self.messages, []
        return found, Position((100,), 0), False


class _Leader:
    def __init__(self) -> None:
        self.saved: list[str] = []

    def load(self, *names: str) -> dict[str, str]:
        return {}

    def save(self, name: str, text: str) -> None:
        self.saved.append(text)


def test_a_message_that_hangs_delays_its_subject_alone() -> None:
    target = _Target()
    log: Any = _Log(100)
    leader: Any = _Leader()

    async def followed() -> None:
        figures = Figures(CollectorRegistry(), [target.name], lambda _: 0.0)
        follower = Follower(target, log, leader, figures, Pace())
        async with http_client() as client:
            run = asyncio.create_task(follower.run(client))
            await asyncio.to_thread(eventually, lambda: len(target.taken) == 98, 5, "the others")
            log.messages = [message(200, "new"), message(201, "0")]
            follower.tell()
            await asyncio.to_thread(
                eventually, lambda: leader.saved and "msg_201" in leader.saved[-1], 5, "the row"
            )
            run.cancel()

    asyncio.run(followed())
    assert target.taken[-1] == "msg_200"
    waiting = {one.message.id: one.problem for one in read_state(leader.saved[-1]).waiting}
    assert waiting == {"msg_0": None, "msg_1": "fails: UnicodeEncodeError", "msg_201": None}
    # A row is written whole, at most once a second.
    assert len(leader.saved) <= 3


def test_people_at_a_dead_address_do_not_keep_the_process_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(delivery.Target, "attempt", lambda *_: released.wait(10))
    target = NotifyTarget(1, "json://127.0.0.1:9/", Settings())

    async def sent() -> None:
        async with http_client() as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await target.send(trial(), client)

    began = time.monotonic()
    asyncio.run(sent())
    assert time.monotonic() - began < 5
    released.set()
