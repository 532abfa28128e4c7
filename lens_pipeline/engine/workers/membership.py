"""The registration of workers with the daemon: release and slots."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing

import psycopg2
import sqlalchemy as sa
from celery import bootsteps
from dagster import DagsterInstance
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.locks import LockSession, queue_id
from lens_pipeline.derivatives.release import Release
from lens_pipeline.engine.processes.notify import NOTIFY

logger = logging.getLogger(__name__)

RELEASE_KEY = "lens/release"
_PUBLISHED = sa.text("SELECT value FROM kvs WHERE key = :key")
# Between two looks at the published release.
_LOOK_SECONDS = 2.0
# A worker may be started before a daemon of its release.
_AWAIT_SECONDS = 45.0


def publish(instance: DagsterInstance, release: Release) -> None:
    """Publish the release that workers must match."""
    instance.run_storage.set_cursor_values({RELEASE_KEY: release.to_json()})


def await_release(dagster_url: str, release: Release, report: Callable[[str], None]) -> None:
    """Return once the daemon's release is ours, or if none was ever published.

    Raises StackError: it is another one for 45 s, or the database does not answer.
    """
    deadline = time.monotonic() + _AWAIT_SECONDS
    told = False
    while problem := _mismatch(dagster_url, release):
        if time.monotonic() > deadline:
            raise StackError(problem)
        if not told:
            report(f"waiting for {_AWAIT_SECONDS:.0f} s: {problem}")
            told = True
        time.sleep(_LOOK_SECONDS)


def _mismatch(dagster_url: str, release: Release) -> str | None:
    try:
        with closing(LockSession(dagster_url)) as session:
            published = _published(session)
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StackError(
            f"Dagster's database (LENS_DAGSTER_URL) cannot be reached: {reason}"
        ) from error
    return _difference(release, published)


def _published(session: LockSession) -> str | None:
    return session.execute(_PUBLISHED, key=RELEASE_KEY).scalar()


def _difference(release: Release, published: str | None) -> str | None:
    if published is None:
        return None
    theirs = Release.from_json(published)
    if theirs.id == release.id:
        return None
    return (
        "this worker does not match the machine that runs the daemon:"
        f" {release.differences(theirs)}: install the same version and give the same settings on"
        " both, then start it again"
    )


class WorkerRegistration:
    """Offers a worker's slots while it has the broker; ends it if the release changes."""

    def __init__(self, dagster_url: str, release: Release, queue: str, slots: int) -> None:
        self._url = dagster_url
        self._release = release
        self._queue = queue
        self._queue_id = queue_id(queue, release.id)
        self._slots = slots
        self._session: LockSession | None = None
        self._offered = False
        self._has_broker = threading.Event()
        self._look = threading.Event()
        self.problem: str | None = None
        """Why the worker ends."""

    def start(self) -> None:
        threading.Thread(target=self._watch, name="worker-registration", daemon=True).start()

    def connected(self) -> None:
        self._has_broker.set()
        self._look.set()

    def disconnected(self) -> None:
        self._has_broker.clear()
        self._look.set()

    def leave_to_parent(self) -> None:
        """Drop a forked child's copy of the session, which must end with the parent."""
        if self._session is not None:
            os.close(self._session.driver.fileno())

    def _watch(self) -> None:
        while self.problem is None:
            try:
                self._update()
            except (SQLAlchemyError, psycopg2.Error) as error:
                reason = str(error).strip().splitlines()[0]
                logger.warning("cannot register this worker: %s", reason)
                self._drop_session()
            self._look.wait(_LOOK_SECONDS)
            self._look.clear()
        self._drop_session()
        logger.error("%s", self.problem)
        # Celery then finishes its tasks and takes no more.
        os.kill(os.getpid(), signal.SIGTERM)

    def _update(self) -> None:
        if self._session is None:
            self._session, self._offered = LockSession(self._url), False
        self.problem = _difference(self._release, _published(self._session))
        offers = self._has_broker.is_set() and self.problem is None
        if offers and not self._offered:
            self._session.offer_slots(self._queue_id, self._slots)
            self._session.execute(NOTIFY)
            logger.info("offering %d slots for %s", self._slots, self._queue)
        elif self._offered and not offers:
            self._session.withdraw_slots(self._queue_id, self._slots)
        self._offered = offers

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.abandon()
            self._session = None


def registration_step(registration: WorkerRegistration) -> type[bootsteps.StartStopStep]:
    """Tells `registration` when Celery begins and ceases to take tasks."""

    class RegistrationStep(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: object) -> None:
            registration.connected()

        def stop(self, parent: object) -> None:
            registration.disconnected()

    return RegistrationStep
