"""The thread of the process `api` that delivers messages, if its process is the leader."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from dagster import DagsterInstance
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core import postgres
from lens_pipeline.core.locks import webhooks_lock
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.event_log.changes import UNSETTLED_SECONDS
from lens_pipeline.monitoring.feed import Batch
from lens_pipeline.monitoring.leader import Leader
from lens_pipeline.monitoring.threads import BackgroundThread
from lens_pipeline.monitoring.webhooks.figures import Figures
from lens_pipeline.monitoring.webhooks.follower import Follower, Pace
from lens_pipeline.monitoring.webhooks.messages import MessageLog
from lens_pipeline.monitoring.webhooks.state import TargetState, read_state
from lens_pipeline.monitoring.webhooks.targets import MessageTarget, connect_targets, http_client

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0  # at the lock, and for what a command asks for
_POLL_SECONDS = 1.0  # of the log
_ANSWER_SECONDS = 3.0  # of Dagster's database


class WebhookDispatcher(BackgroundThread):
    def __init__(
        self,
        pipeline: Pipeline,
        instance: DagsterInstance,
        registry: CollectorRegistry,
        pace: Pace | None = None,
    ) -> None:
        """Raises SettingsError as `connect_targets`."""
        super().__init__("lens-webhooks")
        self._pipeline = pipeline
        self._pace = pace or Pace()
        self._targets = connect_targets(pipeline.settings)
        self._leader = Leader(pipeline.endpoints.dagster_url, instance, webhooks_lock())
        self._figures = Figures(registry, [one.name for one in self._targets], self._late_seconds)
        self._followers: dict[str, Follower] = {}
        self._troubles: dict[str, str] = {}

    def start(self) -> None:
        if self._targets:
            super().start()

    def tell(self, batch: Batch) -> None:
        """Called on the thread of the feed."""
        if not batch.statuses and not batch.is_reset:
            return
        for follower in list(self._followers.values()):
            # The loop may have ended.
            with suppress(RuntimeError):
                follower.loop.call_soon_threadsafe(follower.tell)

    def troubles(self) -> dict[str, str]:
        """What people must be told of targets, by name, whichever process delivers."""
        with suppress(SQLAlchemyError), postgres.deadline(_ANSWER_SECONDS):
            states = stored_states(self._leader, self._targets)
            found = {name: state.trouble(time.time()) for name, state in states.items()}
            self._troubles = {name: text for name, text in found.items() if text}
        return self._troubles

    def _late_seconds(self, name: str) -> float:
        follower = self._followers.get(name)
        since = follower.state.failing_since if follower else None
        return time.time() - since if since else 0.0

    def _run(self) -> None:
        is_lost = False
        while not self._stop.is_set():
            try:
                with postgres.deadline(_ANSWER_SECONDS):
                    is_leader = self._leader.take()
                if is_leader:
                    asyncio.run(self._deliver())
                is_lost = False
            except SQLAlchemyError as error:
                if not is_lost:
                    logger.warning("webhooks wait: %s", str(error).splitlines()[0])
                is_lost = True
            except Exception:
                logger.exception("webhooks failed, and go on")
            self._stop.wait(_LOOK_SECONDS)
        self._leader.leave()

    async def _deliver(self) -> None:
        """Deliver as long as this process is the leader."""
        logger.info("webhooks: sent from here")
        logs = [MessageLog(self._pipeline) for _ in self._targets]
        self._followers = {
            target.name: Follower(target, log, self._leader, self._figures, self._pace)
            for target, log in zip(self._targets, logs, strict=True)
        }
        async with http_client() as client:
            tasks = [asyncio.create_task(one.run(client)) for one in self._followers.values()]
            tasks.append(asyncio.create_task(self._watch()))
            tasks.append(asyncio.create_task(self._poll(logs[0])))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._followers = {}
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                for log in logs:
                    log.close()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _watch(self) -> None:
        """Until the lock is lost or the process stops; hand on what commands ask for."""
        requests = {one.request_row: one for one in self._targets}
        while True:
            with postgres.deadline(_ANSWER_SECONDS):
                if not await asyncio.to_thread(self._leader.take):
                    return
                asked = await asyncio.to_thread(self._leader.load, *requests)
            for row, text in asked.items():
                if text:
                    self._followers[requests[row].name].repeat(text)
            if await asyncio.to_thread(self._stop.wait, _LOOK_SECONDS):
                return

    async def _poll(self, log: MessageLog) -> None:
        """Tell of what the feed does not: originals, and ends of runs that show late."""
        latest, moved_at = None, 0.0
        while True:
            with postgres.deadline(_ANSWER_SECONDS):
                before, latest = latest, await asyncio.to_thread(log.latest)
            now = time.monotonic()
            moved_at = moved_at if latest == before else now
            if now - moved_at < UNSETTLED_SECONDS:
                for follower in self._followers.values():
                    follower.tell()
            await asyncio.sleep(_POLL_SECONDS)


def stored_states(leader: Leader, targets: Sequence[MessageTarget]) -> dict[str, TargetState]:
    """By the name of the target. Raises SQLAlchemyError."""
    rows = leader.load(*(one.row for one in targets)) if targets else {}
    return {one.name: read_state(rows.get(one.row)) for one in targets}
