"""The thread of the process `api` that looks for problems and sends alerts."""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping

from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core import postgres
from lens_pipeline.core.locks import alerts_lock
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import assets
from lens_pipeline.event_log.counters import FigureLog, HourlyOutcome
from lens_pipeline.monitoring.alerts.conditions import DEAD, Seen, judge
from lens_pipeline.monitoring.alerts.delivery import connect_targets, deliver
from lens_pipeline.monitoring.alerts.messages import compose, dead_letter_lines
from lens_pipeline.monitoring.alerts.state import HOLD_SECONDS, AlertState, Notice, Word
from lens_pipeline.monitoring.backlog import BacklogMonitor
from lens_pipeline.monitoring.leader import Leader
from lens_pipeline.monitoring.probes.host import DiskMonitor
from lens_pipeline.monitoring.probes.services import ServiceMonitor
from lens_pipeline.monitoring.threads import BackgroundThread

logger = logging.getLogger(__name__)
_CURSOR = "lens/alerts"  # in Dagster's table of cursors
_ANSWER_SECONDS = 3.0  # for a database
_HOUR = dt.timedelta(hours=1)


class AlertMonitor(BackgroundThread):
    """Sends all that is new in one message, if its process is the leader."""

    def __init__(
        self,
        pipeline: Pipeline,
        instance: DagsterInstance,
        backlog: BacklogMonitor,
        log: FigureLog,
        services: ServiceMonitor,
        webhooks: Callable[[], Mapping[str, str]] = dict,
        *,
        look_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`webhooks` gives what is wrong with targets, by name; `clock`, seconds since the epoch.

        Raises SettingsError as `connect_targets`.
        """
        super().__init__("lens-alerts")
        self._pipeline = pipeline
        self._backlog = backlog
        self._log = log
        self._services = services
        self._webhooks = webhooks
        self._disks = DiskMonitor(pipeline.settings)
        self._look_seconds = look_seconds
        self._clock = clock
        self._targets = connect_targets(pipeline.settings.alert_urls)
        self._leader = Leader(pipeline.endpoints.dagster_url, instance, alerts_lock())
        self._is_leader = False
        self._leader_known_at = clock()
        self._state = AlertState()
        self._is_saved = True

    @property
    def open(self) -> int:
        """Problems that this process has told and that are not over."""
        return self._state.open

    @property
    def failing_targets(self) -> int:
        return sum(target.problem is not None for target in self._targets)

    def status(self) -> str:
        """`off`, `ok`, or which target does not take messages."""
        problems = [f"{one.name}: {one.problem}" for one in self._targets if one.problem]
        return "; ".join(problems) or ("ok" if self._targets else "off")

    def start(self) -> None:
        if self._targets:
            super().start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception:
                logger.exception("alerts: a look failed, and the next one comes")
            self._stop.wait(self._look_seconds)
        self._leader.leave()

    def _look(self) -> None:
        services = asyncio.run(self._services.look())
        disks = asyncio.run(self._disks.look())
        now = self._clock()
        is_to_tell = self._leads(now)
        settings = self._pipeline.settings
        backlog, outcome = self._backlog.latest, self._hourly_outcome()
        more = self._services.restarts(), self._webhooks()
        seen = Seen(services.known, services.workers, backlog, outcome, disks, *more)
        problems, unknown = judge(seen, settings, dt.datetime.now(dt.UTC))
        notices = self._state.due(problems, unknown, now)
        if is_to_tell and notices:
            self._tell(notices, now)

    def _leads(self, now: float) -> bool:
        """Whether this process sends.

        Without the database the leader goes on, and after `HOLD_SECONDS` every process sends.
        """
        try:
            with postgres.deadline(_ANSWER_SECONDS):
                is_leader = self._leader.take()
                if is_leader and not self._is_leader:
                    self._state.restore(self._leader.load(_CURSOR).get(_CURSOR))
                    logger.info("alerts: sent from here")
                self._is_leader, self._leader_known_at = is_leader, now
                if not is_leader:
                    self._state, self._is_saved = AlertState(), True
                elif not self._is_saved:
                    self._leader.save(_CURSOR, self._state.model_dump_json())
                    self._is_saved = True
        except SQLAlchemyError:
            return self._is_leader or now - self._leader_known_at >= HOLD_SECONDS
        return is_leader

    def _tell(self, notices: list[Notice], now: float) -> None:
        is_of_dead = any(n.problem.key == DEAD and n.word is not Word.OVER for n in notices)
        dead = self._dead_letters() if is_of_dead else []
        message = compose(notices, self._pipeline.settings, now, dead)
        logger.warning("alerts: %s", message.title)
        if deliver(self._targets, message, self._stop):
            self._state.tell(notices, self._clock())
            self._is_saved = False
            self._leads(self._clock())

    def _dead_letters(self) -> list[str]:
        backlog = self._backlog.latest
        try:
            with postgres.deadline(_ANSWER_SECONDS):
                return dead_letter_lines(self._pipeline, backlog.letters if backlog else ())
        except SQLAlchemyError:
            return ["Their reasons cannot be read now: `lens dead-letters` lists them."]

    def _hourly_outcome(self) -> HourlyOutcome | None:
        try:
            with postgres.deadline(_ANSWER_SECONDS):
                return self._log.outcome(assets(), dt.datetime.now(dt.UTC) - _HOUR)
        except SQLAlchemyError:
            return None
