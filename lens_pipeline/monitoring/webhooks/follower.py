"""Follows the event log for one target, from a place of its own, so that none delays another."""

import asyncio
import datetime as dt
import logging
import random
import time
from contextlib import suppress
from dataclasses import dataclass

import httpx2 as httpx
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.core import postgres
from lens_pipeline.event_log.changes import Position
from lens_pipeline.monitoring.leader import Leader
from lens_pipeline.monitoring.webhooks.figures import Figures
from lens_pipeline.monitoring.webhooks.messages import MessageLog
from lens_pipeline.monitoring.webhooks.state import WAITING, Delivery, TargetState, read_state
from lens_pipeline.monitoring.webhooks.targets import MessageTarget, SendResult

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0  # for what is to be tried again
_STORE_SECONDS = 1.0  # between two writes while more is sent
_ANSWER_SECONDS = 10.0  # of the databases
_MOST_EVENTS = 100  # of each asset and kind in one reading
_MOST_WAITING = 200  # messages; with more, the log is not read on


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two tries of a message: twice as many each time."""

    first: float = 1.0
    last: float = 300.0

    def pause(self, failures: int) -> float:
        doubled = self.first * 2.0 ** min(failures, 30)
        # Of many that wait, one soon finds that an outage is over.
        return min(doubled, self.last) * random.SystemRandom().uniform(0.5, 1.0)


class Follower:
    """On the event loop, but for what waits for a database."""

    def __init__(
        self, target: MessageTarget, log: MessageLog, leader: Leader, figures: Figures, pace: Pace
    ) -> None:
        self.target = target
        self.state = TargetState()
        self.loop = asyncio.get_running_loop()
        self._log = log
        self._leader = leader
        self._figures = figures
        self._pace = pace
        self._wake = asyncio.Event()
        self._asked: str | None = None
        self._stored: str | None = None
        self._position: Position | None = None
        self._is_new = True
        self._is_lost = False
        self._sends: dict[asyncio.Task[SendResult], Delivery] = {}
        self._busy_since = 0.0

    def tell(self) -> None:
        """There is something new in the log."""
        self._is_new = True
        self._wake.set()

    def repeat(self, asked: str) -> None:
        """Tell again what happened since the time `asked`, or WAITING, with the next step."""
        self._asked = asked
        self.tell()

    async def run(self, client: httpx.AsyncClient) -> None:
        try:
            while True:
                self._wake.clear()
                await self._try_step(client)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _LOOK_SECONDS)
        finally:
            for task in self._sends:
                task.cancel()

    async def _try_step(self, client: httpx.AsyncClient) -> None:
        try:
            await self._step(client)
        except (SQLAlchemyError, CatalogError) as error:
            if not self._is_lost:
                logger.warning("%s waits: %s", self.target.name, str(error).splitlines()[0])
            self._is_lost, self._is_new, self._position = True, True, None
        except Exception:
            logger.exception("%s failed, and goes on", self.target.name)
            self._is_new, self._position = True, None
        else:
            self._is_lost = False

    async def _step(self, client: httpx.AsyncClient) -> None:
        """Read on, send, and store what was taken; no message waits for the answer to another."""
        if self._is_new:
            self._is_new = False
            more = await asyncio.to_thread(self._read)
            self._is_new |= more
        for task in [one for one in self._sends if one.done()]:
            self._settle(self._sends.pop(task), task)
        now = time.monotonic()
        if not self._sends:
            self._busy_since = now
        for one in self.state.due(time.time(), self.target.at_once - len(self._sends)):
            self._send(one, client)
        if not self._sends or now - self._busy_since >= _STORE_SECONDS:
            self._busy_since = now
            await asyncio.to_thread(self._store)
        if self._is_new and self._has_room:
            self._wake.set()

    def _send(self, one: Delivery, client: httpx.AsyncClient) -> None:
        one.is_sending = True
        task = asyncio.create_task(self.target.send(one.message, client))
        task.add_done_callback(lambda _: self._wake.set())
        self._sends[task] = one

    @property
    def _has_room(self) -> bool:
        return len(self.state.waiting) < _MOST_WAITING and not self.state.is_gone

    def _read(self) -> bool:
        """Returns whether there is more to read."""
        with postgres.deadline(_ANSWER_SECONDS):
            if self._stored is None:
                self._load()
            if self._asked is not None:
                self._repeat(self._asked)
            if not self._has_room:
                return True
            if self._position is None:
                self._position = self.state.place(self._log.assets, self._log.latest())
            found, self._position, more = self._log.read(self._position, _MOST_EVENTS)
        wanted = [message for message in found if self.target.wants(message)]
        self.state.add(wanted, self._log.assets, self._position)
        return more

    def _load(self) -> None:
        self._stored = self._leader.load(self.target.row).get(self.target.row, "")
        self.state = read_state(self._stored)

    def _repeat(self, asked: str) -> None:
        self.state.revive()
        if asked != WAITING:
            since = dt.datetime.fromisoformat(asked)
            self.state.rewind(self._log.assets, self._log.before(since))
        self._position = None
        self._store()
        self._leader.save(self.target.request_row, "")
        self._asked = None
        logger.info("%s: told again: %s", self.target.name, asked)

    def _store(self) -> None:
        text = self.state.model_dump_json()
        if text != self._stored:
            with postgres.deadline(_ANSWER_SECONDS):
                self._leader.save(self.target.row, text)
            self._stored = text

    def _settle(self, one: Delivery, task: asyncio.Task[SendResult]) -> None:
        name, message, now = self.target.name, one.message, time.time()
        error = task.exception()
        answer = SendResult(f"fails: {type(error).__name__}") if error else task.result()
        one.is_sending = False
        if answer.problem is None:
            if self.state.problem:
                logger.info("%s: works again", name)
            self.state.take(one, now)
            latency = now - message.timestamp.timestamp()
            self._figures.took(name, latency, is_first_try=one.failed_at is None)
            return
        if answer.problem not in (self.state.problem, one.problem):
            logger.warning("%s: %s", name, answer.problem)
        pause = self._pace.pause(one.failures)
        is_given_up = self.state.refuse(one, answer.problem, pause, now, answer.retry_after)
        self.state.is_gone |= answer.is_gone
        self._figures.refused(name, is_given_up=is_given_up)
        if is_given_up:
            logger.error("%s: given up: %s of %s", name, message.type, message.data["id"])
