"""Probes of the services: databases, daemon, broker, workers, store."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import psycopg2
from dagster import DagsterInstance
from psycopg2.errors import UndefinedTable
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.generations import Layout
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.endpoints import Endpoints, resolve, without_password
from lens_pipeline.core.restarts import Restarts, read_restarts
from lens_pipeline.derivatives.originals import count_unsaved, in_words
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.derivatives.store_audit import require_own_store
from lens_pipeline.engine import liveness
from lens_pipeline.engine.dagster_storage.storage import create_tables, has_current_tables
from lens_pipeline.engine.liveness import is_recent
from lens_pipeline.engine.processes.usage import Usage, read_usage
from lens_pipeline.engine.workers.broker import BrokerError, BrokerFull, BrokerRefusal, reach
from lens_pipeline.engine.workers.inspection import alive_workers
from lens_pipeline.errors import DerivativeError, StoreUnavailable, first_line
from lens_pipeline.monitoring.feed import Batch
from lens_pipeline.monitoring.probes.probe import ANSWER_SECONDS, Probe, ProbeError, Result
from lens_pipeline.providers import configured
from lens_pipeline.settings import Settings
from lens_pipeline.storage.connect import open_store
from lens_pipeline.storage.object_store import (
    NoSuchBucket,
    ObjectStore,
    StoreReadOnly,
    StoreRefused,
    WrongCredentials,
)

_MOST_TYPES = 5
_COUNT_SECONDS = 20  # for half a million rows
_WORKERS_KEPT_SECONDS = 10.0  # they take a second to answer
_USAGE_KEPT_SECONDS = 15.0  # it is published every 30 s
_STORE_ERRORS = frozenset(
    error.__name__
    for error in (StoreUnavailable, StoreRefused, StoreReadOnly, NoSuchBucket, WrongCredentials)
)


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    problems: Mapping[str, str | None]
    """What is wrong, by service, or None."""
    workers: Mapping[str, int] | None
    """Workers that answer, by queue; None if unknown."""
    is_daemon_known: bool = True

    @property
    def is_well(self) -> bool:
        """Whether every service is, and each queue has a worker."""
        has_workers = bool(self.workers) and all(self.workers.values())
        return has_workers and not any(self.problems.values())

    @property
    def known(self) -> dict[str, str | None]:
        """The problems without that of an unknown daemon."""
        unknown = None if self.is_daemon_known else "daemon"
        return {name: problem for name, problem in self.problems.items() if name != unknown}


class ServiceMonitor:
    def __init__(self, pipeline: Pipeline, instance: DagsterInstance) -> None:
        broker_url = pipeline.endpoints.broker_url
        self._services = (
            Probe("database", lambda: databases(pipeline)),
            Probe("broker", lambda: broker(broker_url)),
            Probe("store", self._try_store),
        )
        self._store = pipeline.store
        self._is_store_doubted = True
        self._heartbeat = Probe("daemon", lambda: pooled_heartbeat_age_seconds(instance))
        self._workers = Probe("workers", lambda: workers(broker_url), _WORKERS_KEPT_SECONDS)
        home = pipeline.settings.resolved_home
        self._restarts = Probe("processes", lambda: read_restarts(home))
        dagster_url = pipeline.endpoints.dagster_url
        self._usage = Probe("usage", lambda: read_usage(dagster_url), _USAGE_KEPT_SECONDS)

    def tell(self, batch: Batch) -> None:
        """Doubt the store of which a worker's file tells: a full one can be read."""
        if any(status.error_class in _STORE_ERRORS for status in batch.statuses):
            self._is_store_doubted = True

    def _try_store(self) -> None:
        """Write only in doubt: a bucket may keep every version."""
        in_doubt, self._is_store_doubted = self._is_store_doubted, False
        try:
            store(self._store, write=in_doubt)
        except ProbeError:
            self._is_store_doubted = True
            raise

    async def look(self) -> ServiceHealth:
        """Answers within `ANSWER_SECONDS`, also if a service hangs."""
        probes = (self._heartbeat, self._workers, *self._services)
        heartbeat, alive, *others = await asyncio.gather(*(probe.answer() for probe in probes))
        problems = {result.name: result.problem for result in others}
        problems["daemon"] = _daemon_problem(heartbeat)
        return ServiceHealth(problems, alive.value, heartbeat.ok)

    def workers_alive(self) -> Mapping[str, int] | None:
        """Workers that answered last, by queue; None if unknown."""
        result = self._workers.last()
        return result.value if result else None

    def heartbeat_age_seconds(self) -> float | None:
        """Seconds since the daemon last beat; None if never or unknown."""
        result = self._heartbeat.last()
        return _age_now(result) if result else None

    def restarts(self) -> Mapping[str, Restarts]:
        """By process of `lens up` here, as known last; empty if unknown."""
        result = self._restarts.last()
        return (result.value if result else None) or {}

    def usage(self) -> Sequence[Usage]:
        """Of all processes, on every machine, as known last; empty if unknown."""
        result = self._usage.last()
        return (result.value if result else None) or ()


def databases(pipeline: Pipeline) -> None:
    try:
        pipeline.catalog.existing(Kind.PHOTO, ["none"])
    except CatalogError as error:
        raise ProbeError("the application's database cannot be read") from error
    try:
        pipeline.log.times([0])
    except SQLAlchemyError as error:
        raise ProbeError("Dagster's database cannot be read") from error


def application_database(settings: Settings, url: str) -> str:
    """Which reads and writes the application's database at `url` allows."""
    with closing(Catalog(url, Layout.of(settings))) as catalog:
        try:
            if settings.database_url is None:  # the embedded one, as every command does
                catalog.migrate()
                catalog.migrate_view()
            catalog.check()
            if settings.deletion:
                catalog.check_deletion()
            writes = _writes(catalog)
            view = _view(catalog) + _other_types(catalog)
        except CatalogError as error:
            fix = _database_fix(str(error), "LENS_DATABASE_URL", "create it")
            raise ProbeError(f"{error}{fix}") from error
        except SQLAlchemyError as error:
            message = f"it fails unexpectedly: {first_line(error)}: see its server's log"
            raise ProbeError(message) from error
    return f"{without_password(url)}: every read is allowed; {writes}; {view}"


def _other_types(catalog: Catalog) -> str:
    found = catalog.other_types()
    told = ", ".join(f"{number:,} {name!r}" for name, number in [*found.items()][:_MOST_TYPES])
    rows = f"rows of types that LENS_TYPES does not name are left alone: {told}"
    return f"; {rows}" if found else ""


def _view(catalog: Catalog) -> str:
    """Raises ProbeError: pages read a view that is not kept true."""
    lack = catalog.lack_of_view()
    if lack is None:
        kept = "lens_generations is kept true while the HTTP app runs"
        note = catalog.view_age_note()
        return f"{kept}, but {note}" if note else kept
    if lack.is_whole:
        return lack.message
    raise ProbeError(lack.message)


def _writes(catalog: Catalog) -> str:
    """Whether rows can be added over HTTP. Raises ProbeError: a role has only some rights."""
    if off := catalog.lack_of(Kind.MASTER):
        return off
    lack = catalog.lack_of_writing()
    if lack is None:
        return "masters, assets and renditions can be added over HTTP"
    if lack.is_whole:
        return f"nothing can be added over HTTP, which is as well if others do: {lack.message}"
    raise ProbeError(lack.message)


def originals(settings: Settings, endpoints: Endpoints) -> str:
    """How many are not saved. Raises ProbeError: some of new rows."""
    pipeline = connect(settings, endpoints)
    until = time.monotonic() + _COUNT_SECONDS
    try:
        with closing(pipeline.catalog), closing(pipeline.log):
            pages = count_unsaved(pipeline)
            found, is_whole = next(pages)
            while not is_whole and time.monotonic() < until:
                found, is_whole = next(pages)
    except SQLAlchemyError as error:
        raise ProbeError("unknown: Dagster's database cannot be read, see there") from error
    text = in_words(found)
    if not is_whole:
        text = f"of the rows looked at within {_COUNT_SECONDS} s, {text}"
    if settings.enabled and any(one.late.count for one in found.values()):
        raise ProbeError("originals of new rows are not saved", text)
    return text


def provider_tasks(settings: Settings, url: str) -> str:
    """Raises CatalogError: tasks of the provider cannot be recorded."""
    with closing(Catalog(url, Layout.of(settings))) as catalog:
        catalog.check_writing()
    names = sorted(configured(settings))
    kie = settings.kie_webhook_key or settings.kie_secret
    unproved = {
        "kie": not kie and "LENS_KIE_WEBHOOK_KEY or LENS_KIE_SECRET",
        "replicate": not settings.replicate_webhook_key and "LENS_REPLICATE_WEBHOOK_KEY",
    }
    lacks = [
        f"; without {unproved[name]} webhooks of {name} are refused"
        for name in names
        if unproved.get(name)
    ]
    return f"tasks of {', '.join(names)} can be recorded{''.join(lacks)}"


def dagster_database(settings: Settings, url: str) -> str:
    """Whether Dagster's tables are there and current."""
    shown = without_password(url)
    if settings.database_url is None and settings.dagster_url is None:
        create_tables(url)
    try:
        # First: Dagster itself would try to connect six times and log each.
        liveness.heartbeat_age_seconds(url)
        is_current = has_current_tables(url)
    except UndefinedTable:
        raise ProbeError(f"{shown} lacks Dagster's tables: run `lens migrate`") from None
    except (psycopg2.Error, SQLAlchemyError) as error:
        variable = "LENS_DAGSTER_URL" if settings.dagster_url else "LENS_DATABASE_URL"
        reason = first_line(error)
        fix = _database_fix(reason, variable, "`lens migrate` creates it")
        raise ProbeError(f"Dagster's database cannot be used: {reason}{fix}") from error
    if not is_current:
        raise ProbeError(f"{shown} has tables of another Dagster version: run `lens migrate`")
    return f"{shown}: its tables are up to date"


def heartbeat_age_seconds(dagster_url: str) -> float | None:
    """Seconds since the daemon last beat, or None."""
    try:
        return liveness.heartbeat_age_seconds(dagster_url)
    except UndefinedTable:
        raise ProbeError("unknown: Dagster's tables are missing, see there") from None
    except psycopg2.Error:
        raise ProbeError("unknown: Dagster's database does not answer, see there") from None


def pooled_heartbeat_age_seconds(instance: DagsterInstance) -> float | None:
    """As `heartbeat_age_seconds`, without a new connection each time."""
    try:
        heartbeat = instance.get_daemon_heartbeats().get(liveness.QUEUE_DAEMON)
    except SQLAlchemyError as error:
        raise ProbeError("unknown: Dagster's database cannot be read") from error
    return None if heartbeat is None else time.time() - heartbeat.timestamp


def _age_now(heartbeat: Result) -> float | None:
    if heartbeat.value is None:
        return None
    return round(heartbeat.value + time.monotonic() - heartbeat.at, 3)


def _daemon_problem(heartbeat: Result) -> str | None:
    if heartbeat.problem:
        return heartbeat.problem
    age = _age_now(heartbeat)
    if age is None:
        return "does not run: it never beat"
    return None if is_recent(age) else f"does not run: its last heartbeat is {age:.0f} s old"


def broker(url: str, variable: str = "LENS_BROKER_URL") -> None:
    _require_broker(url)
    shown = without_password(url)
    try:
        reach(url, ANSWER_SECONDS)
    except BrokerRefusal as error:
        raise ProbeError(
            "refuses us: correct LENS_BROKER_URL, or see `lens doctor`",
            f"the broker at {shown} refuses us ({error}): correct the user, the password or the"
            f" virtual host in {variable}, or create what is missing",
        ) from error
    except BrokerFull as error:
        message = f"{shown}: {error}: see `rabbitmq-diagnostics alarms` there"
        raise ProbeError(str(error), message) from error
    except BrokerError as error:
        raise ProbeError(
            f"cannot be reached: {type(error.__cause__).__name__}",
            f"no broker at {shown} ({error}): start it or correct {variable}",
        ) from error
    except ValueError as error:
        message = f"{variable} is not understood: {error}"
        raise ProbeError(f"fails: {type(error).__name__}", message) from error


def workers(broker_url: str) -> dict[str, int]:
    _require_broker(broker_url)
    try:
        return alive_workers(broker_url)
    except BrokerError as error:
        message = f"unknown: the broker cannot be asked for them: {error}"
        raise ProbeError("unknown: the broker cannot be asked for them", message) from error


def _require_broker(url: str) -> None:
    # Without an address, Celery would ask for a broker at localhost.
    if not url:
        raise ProbeError("none is known: set LENS_BROKER_URL")


def store(opened: ObjectStore, *, write: bool) -> None:
    action = "read"
    try:
        opened.ping()
        if write:
            action = "written"
            opened.check()
    except DerivativeError as error:
        # Other words of the message may be addresses.
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else type(error).__name__
        raise ProbeError(f"cannot be {action}: {reason}") from error


def own_store(settings: Settings) -> str:
    """Write, read and delete. Raises ForeignStore."""
    url = settings.resolved_store_url
    try:
        open_store(url, settings.s3_endpoint).check()
    except OSError as error:
        raise ProbeError(
            f"{url}: {error.strerror}: set LENS_STORE_URL to a directory this user may write"
        ) from error
    except DerivativeError as error:
        raise ProbeError(f"{url}: {error}") from error
    except ValueError as error:
        # Of boto3: the endpoint is no URL.
        raise ProbeError(f"{url}: {error}: correct LENS_S3_ENDPOINT") from error
    # An embedded database has no other hosts.
    if settings.database_url is not None:
        pipeline = connect(settings, resolve(settings, broker=False))
        # Another probe finds that Dagster's database is gone.
        with closing(pipeline.catalog), closing(pipeline.log), suppress(SQLAlchemyError):
            require_own_store(pipeline)
    return f"{url}: written, read and deleted"


def _database_fix(reason: str, variable: str, creation: str) -> str:
    """What to do about a message of PostgreSQL."""
    is_absent = "does not exist" in reason
    if "password" in reason:
        return f": correct the password in {variable}"
    if "role" in reason and is_absent:
        return f": create the role or correct the user in {variable}"
    if "database" in reason and is_absent:
        return f": {creation}, or correct {variable}"
    if "permission denied" in reason:
        return f": grant it, or correct the user in {variable}"
    if "connection" in reason.lower() or "translate host" in reason or "timeout" in reason:
        return f": start the server or correct {variable}"
    return ""
