"""Notifications of changes of the run queue, which save polls."""

import logging
import select
from threading import Event

import psycopg2
import sqlalchemy as sa
from dagster import DagsterEventType
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core.locks import LockSession, daemon_lock

logger = logging.getLogger(__name__)

# A run comes to the queue or leaves its slot; workers that come notify, too.
QUEUE_EVENTS = frozenset(
    {
        DagsterEventType.PIPELINE_ENQUEUED,
        DagsterEventType.PIPELINE_SUCCESS,
        DagsterEventType.PIPELINE_FAILURE,
        DagsterEventType.PIPELINE_CANCELED,
    }
)
_CHANNEL = "lens_run_queue"
NOTIFY = sa.text(f"NOTIFY {_CHANNEL}")
_LISTEN = sa.text(f"LISTEN {_CHANNEL}")


class RunQueueListener:
    """Waits for `NOTIFY`, and shows by a lock that a daemon lives. Not safe between threads."""

    def __init__(self, dagster_url: str) -> None:
        self._url = dagster_url
        self._session: LockSession | None = None

    def wait(self, seconds: float, stop: Event) -> None:
        """Return at a notification or after `seconds`; without the server also if `stop` is set."""
        try:
            driver = self._listening().driver
            readable = select.poll()
            readable.register(driver.fileno(), select.POLLIN)
            if readable.poll(seconds * 1000):
                driver.poll()
                driver.notifies.clear()
        except (SQLAlchemyError, psycopg2.Error, OSError) as error:
            logger.warning("cannot listen for changes of the run queue: %s", error)
            if self._session is not None:
                self._session.abandon()
                self._session = None
            stop.wait(seconds)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _listening(self) -> LockSession:
        if self._session is None:
            self._session = LockSession(self._url, "lens-pipeline-run-queue")
            self._session.execute(_LISTEN)
            self._session.try_all([daemon_lock()])
        return self._session
