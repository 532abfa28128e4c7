"""Whether everything works: for load balancers, monitoring and `lens up`."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline import VERSION
from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core import postgres
from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.engine.health import daemon_heartbeat_age_seconds, is_recent
from lens_pipeline.engine.workers.broker import BrokerError, BrokerFull, BrokerRefusal, reach
from lens_pipeline.engine.workers.inspection import alive_workers
from lens_pipeline.errors import DerivativeError
from lens_pipeline.monitoring.backlog import BacklogMonitor, age_seconds
from lens_pipeline.web.context import Context

router = APIRouter(tags=["health"])

# Probes come from several places every few seconds; services are asked no more often than this.
_KEPT_SECONDS = 2.0
# A worker answers within a second, of which a probe need not wait for one every time.
_WORKERS_KEPT_SECONDS = 10.0
# What has not answered after so long counts as gone.
_ANSWER_SECONDS = 3
# Without an address, Celery would ask for a broker at localhost.
_NO_BROKER = "none is known: set LENS_BROKER_URL"


class Live(BaseModel):
    """This process answers."""

    status: Literal["live"] = "live"


class Health(BaseModel):
    """What works; each service is `ok`, or says what is wrong with it."""

    status: Literal["ok", "unavailable"]
    """`ok` if every service is, and at least one worker lives on each queue."""
    version: str
    database: str
    broker: str
    store: str
    daemon: str
    workers: int | None
    """Workers that answer, on any machine; None: not known."""
    queues_without_worker: list[str]
    """Of those that are known: what is queued there is not worked on."""
    oldest_unprocessed_seconds: float | None
    """Age of the oldest finished row whose derivative is still to be made; None: there is none."""
    alerts: str
    """`off`, `ok`, or which target does not take messages, which makes nothing else unavailable."""


class Trouble(Exception):
    """What is wrong with a service, in a few words without secrets."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service said last; `value` only if all is well."""

    at: float
    problem: str | None = None
    value: Any = None


@dataclass
class Probe:
    """Asks one service, never twice at the same time, and keeps the answer for a while.

    One that hangs keeps its thread until it gives up; nobody waits for it longer than given here.
    """

    name: str
    ask: Callable[[], Any]
    kept_seconds: float = _KEPT_SECONDS
    _answer: Answer | None = field(default=None, init=False)
    _asking: Future[Answer] | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    async def answer(self, wait_seconds: float) -> Answer:
        """A fresh answer if there is one in time; else that there is none."""
        asking = self._ask_if_old()
        if asking is None and self._answer is not None:
            return self._answer
        assert asking is not None  # noqa: S101
        try:
            waited = asyncio.shield(asyncio.wrap_future(asking))
            return await asyncio.wait_for(waited, wait_seconds)
        except TimeoutError:
            return Answer(time.monotonic(), f"does not answer within {wait_seconds:g} s")

    def last(self) -> Answer | None:
        """What is known now; asks anew in the background if that is old."""
        self._ask_if_old()
        return self._answer

    def _ask_if_old(self) -> Future[Answer] | None:
        """The asking under way, begun if the answer is old; None: the answer is fresh."""
        with self._lock:
            answer = self._answer
            # What has gone may be back soon.
            kept = _KEPT_SECONDS if answer and answer.problem else self.kept_seconds
            if answer and time.monotonic() - answer.at < kept:
                return None
            if self._asking is None:
                self._asking = Future()
                # A daemon: a service that hangs must not keep the process from ending.
                threading.Thread(
                    target=self._run, args=(self._asking,), name=f"lens-{self.name}", daemon=True
                ).start()
            return self._asking

    def _run(self, asking: "Future[Answer]") -> None:
        try:
            with postgres.deadline(_ANSWER_SECONDS):
                value = self.ask()
            answer = Answer(time.monotonic(), value=value)
        except Trouble as trouble:
            answer = Answer(time.monotonic(), str(trouble))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the probe finds
            answer = Answer(time.monotonic(), f"fails: {type(error).__name__}")
        with self._lock:
            self._answer, self._asking = answer, None
        asking.set_result(answer)


@dataclass(frozen=True, slots=True)
class Services:
    """What the services say now."""

    database: str | None
    broker: str | None
    store: str | None
    daemon: str | None
    """What is wrong with each."""
    is_daemon_known: bool
    workers: dict[str, int] | None
    """That answer, by queue; None: that is not known."""

    @property
    def known(self) -> dict[str, str | None]:
        """What is wrong with each of which that can be said, by name."""
        found = {"database": self.database, "broker": self.broker, "store": self.store}
        return found | ({"daemon": self.daemon} if self.is_daemon_known else {})


class Monitor:
    """The probes of one process."""

    def __init__(self, context: Context, backlog: BacklogMonitor) -> None:
        self._backlog = backlog
        self.alerts: Callable[[], str] = lambda: "off"
        self.database = Probe("database", lambda: _database(context))
        self.broker = Probe("broker", lambda: _broker(context.pipeline.endpoints.broker_url))
        self.store = Probe("store", lambda: _store(context))
        self._heartbeat = Probe("heartbeat", lambda: _heartbeat_at(context))
        self.workers = Probe(
            "workers", lambda: _workers(context.pipeline.endpoints), _WORKERS_KEPT_SECONDS
        )

    async def look(self) -> Services:
        """How the services are; within seconds, whatever hangs."""
        database, broker, store, heartbeat, workers = await asyncio.gather(
            *(
                probe.answer(_ANSWER_SECONDS)
                for probe in (self.database, self.broker, self.store, self._heartbeat, self.workers)
            )
        )
        return Services(
            database=database.problem,
            broker=broker.problem,
            store=store.problem,
            daemon=_daemon_problem(heartbeat),
            is_daemon_known=heartbeat.problem is None,
            workers=workers.value,
        )

    async def health(self) -> Health:
        """How everything is; within seconds, whatever hangs."""
        seen = await self.look()
        problems = (seen.database, seen.broker, seen.store, seen.daemon)
        is_well = not any(problems) and bool(seen.workers) and all(seen.workers.values())
        return Health(
            status="ok" if is_well else "unavailable",
            version=VERSION,
            database=seen.database or "ok",
            broker=seen.broker or "ok",
            store=seen.store or "ok",
            daemon=seen.daemon or "ok",
            workers=sum(seen.workers.values()) if seen.workers is not None else None,
            queues_without_worker=sorted(
                queue for queue, number in (seen.workers or {}).items() if not number
            ),
            oldest_unprocessed_seconds=self._oldest_seconds(),
            alerts=self.alerts(),
        )

    def workers_alive(self) -> Mapping[str, int] | None:
        """Workers that answer, by queue; None: that is not known."""
        answer = self.workers.last()
        return answer.value if answer else None

    def heartbeat_age_seconds(self) -> float | None:
        """Since the daemon last beat; None: it never did, or that is not known."""
        answer = self._heartbeat.last()
        return _age_of(answer.value) if answer and answer.value is not None else None

    def _oldest_seconds(self) -> float | None:
        backlog = self._backlog.latest
        return age_seconds(backlog.oldest_of_all) if backlog else None


def _database(context: Context) -> None:
    try:
        context.pipeline.catalog.existing(Kind.PHOTO, ["none"])
    except CatalogError as error:
        raise Trouble("the application's database cannot be read") from error
    try:
        context.pipeline.log.times([0])
    except SQLAlchemyError as error:
        raise Trouble("Dagster's database cannot be read") from error


def _workers(endpoints: Endpoints) -> dict[str, int]:
    if not endpoints.broker_url:
        raise Trouble(_NO_BROKER)
    return alive_workers(endpoints)


def _broker(url: str) -> None:
    if not url:
        raise Trouble(_NO_BROKER)
    try:
        reach(url, _ANSWER_SECONDS)
    except BrokerRefusal as error:
        raise Trouble("refuses us: correct LENS_BROKER_URL, or see `lens doctor`") from error
    except BrokerFull as error:
        raise Trouble(str(error)) from error
    except BrokerError as error:
        raise Trouble(f"cannot be reached: {type(error.__cause__).__name__}") from error


def _store(context: Context) -> None:
    try:
        context.pipeline.store.ping()
    except DerivativeError as error:
        raise Trouble(f"cannot be read: {type(error).__name__}") from error


def _heartbeat_at(context: Context) -> float | None:
    """When the daemon last beat, by the monotonic clock; None: never."""
    try:
        age = daemon_heartbeat_age_seconds(context.queue.instance)
    except SQLAlchemyError as error:
        raise Trouble("unknown: Dagster's database cannot be read") from error
    return None if age is None else time.monotonic() - age


def _age_of(at: float) -> float:
    return round(time.monotonic() - at, 3)


def _daemon_problem(heartbeat: Answer) -> str | None:
    if heartbeat.problem:
        return heartbeat.problem
    if heartbeat.value is None:
        return "does not run: it never beat"
    age = _age_of(heartbeat.value)
    return None if is_recent(age) else f"does not run: its last heartbeat is {age:.0f} s old"


def monitor(request: Request) -> Monitor:
    """The monitor of the app that serves this request."""
    return request.app.state.monitor


MonitorDep = Annotated[Monitor, Depends(monitor)]
_GONE: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "Something is gone."}
}


# Not on the threads of other requests: those may all be waiting for what hangs. By HEAD as well,
# which is how many probes ask.
@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", include_in_schema=False)
@router.head("/api/health/live")
@router.get("/api/health/live")
async def live() -> Live:
    """Whether this process answers, whatever else is gone."""
    return Live()


@router.head("/health", include_in_schema=False)
@router.get("/health", include_in_schema=False)
@router.head("/api/health", responses=_GONE)
@router.get("/api/health", responses=_GONE)
async def health(monitor: MonitorDep, response: Response) -> Health:
    """Whether everything works: 200, or 503 and what does not."""
    found = await monitor.health()
    response.status_code = 200 if found.status == "ok" else 503
    response.headers["Cache-Control"] = "no-store"
    return found
