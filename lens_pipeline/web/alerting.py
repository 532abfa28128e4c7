"""Alerts, beside the requests: this process lives when the daemon or the workers do not.

Everything that may hang is asked on threads of their own, so that what hangs can be told of.
"""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.alerts.conditions import Seen, disks, judge
from lens_pipeline.alerts.desk import Desk
from lens_pipeline.alerts.ledger import Ledger, Notice, Rhythm, Word
from lens_pipeline.alerts.targets import Delivery, Target, channels, standing
from lens_pipeline.alerts.wording import compose, of_letters
from lens_pipeline.core.threads import BackgroundThread
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.monitoring.backlog import Watch
from lens_pipeline.monitoring.feed import ASSETS
from lens_pipeline.status.figures import FigureLog, HourlyOutcome
from lens_pipeline.web.context import Context
from lens_pipeline.web.routes.health import Monitor, Probe, Trouble

logger = logging.getLogger(__name__)

RHYTHM = Rhythm()
_LOOK_SECONDS = 5.0
# What has not answered after so long is not known.
_ANSWER_SECONDS = 5.0
_OUTCOME_KEPT_SECONDS = 60.0
_HOUR = dt.timedelta(hours=1)
# A message that has not arrived by then is written anew.
_STALE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What the desk said."""

    is_ours: bool
    term: int = 0
    """How often we have taken it."""
    remembered: str | None = None
    """What the one before us kept."""


@dataclass(frozen=True, slots=True)
class _Sending:
    """A message under way: what it tells counts as told once one target has it."""

    notices: Sequence[Notice]
    deliveries: Sequence[Delivery]
    at: float

    @property
    def has_arrived(self) -> bool:
        return any(delivery.arrived.is_set() for delivery in self.deliveries)

    def withdraw(self) -> None:
        for delivery in self.deliveries:
            delivery.withdrawn.set()


class Watchman(BackgroundThread):
    """Watches for problems and has them told, if this is the process that does."""

    def __init__(self, context: Context, monitor: Monitor, watch: Watch, log: FigureLog) -> None:
        """Raises SettingsError: Apprise does not understand one of LENS_ALERT_URLS."""
        super().__init__("lens-alerts")
        self._pipeline: Pipeline = context.pipeline
        self._monitor = monitor
        self._watch = watch
        self._log = log
        self._rhythm = RHYTHM
        self._targets = [Target(one) for one in channels(self._pipeline.settings.alert_urls)]
        self._desk = Desk(self._pipeline.endpoints.dagster_url, context.queue.instance)
        self._place = Probe("alerts-place", self._take_place, kept_seconds=0.0)
        self._outcome = Probe("alerts-outcome", self._ask_outcome, _OUTCOME_KEPT_SECONDS)
        self._ledger = Ledger(self._rhythm)
        self._began = time.time()
        # None: it has never been known.
        self._is_ours: bool | None = None
        self._term = 0
        self._sending: _Sending | None = None
        # Of the probe's thread, but for `_to_save`: what the ledger is to be kept as.
        self._place_now = _Place(False)
        self._saved = self._to_save = self._ledger.dump()

    @property
    def open(self) -> Mapping[str, str]:
        """What people were told of and not yet that it is over; only where it is sent from."""
        return self._ledger.open if self._is_ours else {}

    @property
    def failing_targets(self) -> int:
        """Targets whose last message has not arrived."""
        return sum(target.problem is not None for target in self._targets)

    def standing(self) -> str:
        """`off`, `ok`, or which target does not take messages."""
        return standing(self._targets)

    def start(self) -> None:
        if self._targets:
            for target in self._targets:
                target.start()
            super().start()

    def stop(self, seconds: float) -> None:
        super().stop(seconds)
        for target in self._targets:
            target.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._look())
            except Exception:
                logger.exception("alerts: a look failed, and the next one comes")
            self._stop.wait(min(_LOOK_SECONDS, self._rhythm.apart))
        # Not while the probe's thread may be using it.
        if asyncio.run(self._place.answer(_ANSWER_SECONDS)).problem is None:
            self._desk.leave()

    async def _look(self) -> None:
        services, place, outcome = await asyncio.gather(
            self._monitor.look(),
            self._place.answer(_ANSWER_SECONDS),
            self._outcome.answer(_ANSWER_SECONDS),
        )
        now = time.time()
        if place.value is not None:
            self._settle_place(place.value)
        seen = Seen(
            services=services.known,
            workers=services.workers,
            backlog=self._watch.backlog,
            outcome=outcome.value,
            disks=disks(self._pipeline.settings),
        )
        problems, unknown = judge(seen, self._pipeline.settings, dt.datetime.now(dt.UTC))
        is_sender = self._is_sender(now)
        if not is_sender:
            problems = [problem for problem in problems if problem.key in self._ledger.open]
        self._ledger.see(problems, unknown, now)
        if is_sender or self._ledger.open:
            await self._tell(now, is_sender)

    def _is_sender(self, now: float) -> bool:
        """Where it was never known who sends, as without a database since the start, all do: told
        twice is better than not at all.
        """
        return self._is_ours or (self._is_ours is None and now - self._began > self._rhythm.hold)

    def _settle_place(self, place: _Place) -> None:
        """Take note of whose the place is. While that is not known all stays as it was: whoever
        sent last tells that the database is gone.
        """
        if place.is_ours and place.term != self._term:
            logger.info("alerts: sent from here")
            earlier, self._ledger = self._ledger, Ledger(self._rhythm, place.remembered)
            self._to_save = self._ledger.dump()
            self._ledger.adopt(earlier)
            self._term = place.term
        elif not place.is_ours and self._is_ours is not False:
            if self._sending is not None:
                self._sending.withdraw()
                self._sending = None
            # What nobody else can know of is ours until it is over.
            self._ledger.forget(Ledger(self._rhythm, self._saved).open)
        self._is_ours = place.is_ours

    async def _tell(self, now: float, is_sender: bool) -> None:
        if self._sending is not None:
            if self._sending.has_arrived:
                self._ledger.tell(self._sending.notices, now)
                self._to_save = self._ledger.dump()
            elif now - self._sending.at < _STALE_SECONDS:
                return
            else:
                self._sending.withdraw()
            self._sending = None
        notices = self._ledger.due(now)
        if not is_sender:
            notices = [notice for notice in notices if notice.word is Word.OVER]
        if notices:
            details = {n.problem.key: await self._details(n.new) for n in notices if n.new}
            message = compose(notices, self._pipeline.settings, details)
            logger.warning("alerts: %s", message.title)
            deliveries = [target.offer(message) for target in self._targets]
            self._sending = _Sending(notices, deliveries, now)

    async def _details(self, marks: frozenset[str]) -> Sequence[str]:
        backlog = self._watch.backlog
        letters = [letter for letter in backlog.letters if letter.mark in marks] if backlog else []
        asked = Probe("alerts-details", lambda: of_letters(self._pipeline, letters))
        answer = await asked.answer(_ANSWER_SECONDS)
        return answer.value or ["they cannot be read now: `lens dead-letters` lists them"]

    def _take_place(self) -> _Place:
        """On the probe's thread."""
        try:
            if not self._desk.take():
                self._place_now = _Place(False, self._place_now.term)
            elif not self._place_now.is_ours:
                remembered = self._desk.remembered()
                self._place_now = _Place(True, self._place_now.term + 1, remembered)
                self._saved = remembered or ""
            elif (text := self._to_save) != self._saved:
                self._desk.keep(text)
                self._saved = text
        except SQLAlchemyError as error:
            raise Trouble("unknown: Dagster's database cannot be used") from error
        return self._place_now

    def _ask_outcome(self) -> HourlyOutcome:
        try:
            return self._log.outcome(ASSETS, dt.datetime.now(dt.UTC) - _HOUR)
        except SQLAlchemyError as error:
            raise Trouble("unknown: Dagster's database cannot be read") from error
