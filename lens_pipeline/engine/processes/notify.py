"""Tells the daemon that the run queue has changed, so that it need not look all the time."""

import logging
import select
from threading import Event

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa
from dagster import DagsterEventType

from lens_pipeline.core.locks import daemon_lock
from lens_pipeline.core.postgres import SERVER_SIDE, connect_args

logger = logging.getLogger(__name__)

# A run has come to the queue, or has left its slot.
RINGS = frozenset(
    {
        DagsterEventType.PIPELINE_ENQUEUED,
        DagsterEventType.PIPELINE_SUCCESS,
        DagsterEventType.PIPELINE_FAILURE,
        DagsterEventType.PIPELINE_CANCELED,
    }
)
_CHANNEL = "lens_run_queue"
RING = sa.text(f"NOTIFY {_CHANNEL}")


class Bell:
    """Listens to `RING`, and says meanwhile by a lock that a daemon lives.

    Without the server `wait` just waits. Not safe to share between threads.
    """

    def __init__(self, postgres_url: str) -> None:
        url = sa.make_url(postgres_url).set(drivername="postgresql")
        self._dsn = url.render_as_string(hide_password=False)
        self._connection: psycopg2.extensions.connection | None = None

    def wait(self, seconds: float, stop: Event) -> None:
        """Return when rung, at the latest after so many seconds or once `stop` is set."""
        try:
            listening = self._listening()
            readable = select.poll()
            readable.register(listening.fileno(), select.POLLIN)
            if readable.poll(seconds * 1000):
                listening.poll()
                listening.notifies.clear()
        except (psycopg2.Error, OSError) as error:
            logger.warning("cannot listen for changes of the run queue: %s", error)
            self.close()
            stop.wait(seconds)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listening(self) -> psycopg2.extensions.connection:
        if self._connection is None:
            arguments = connect_args("lens-pipeline-bell")
            connection: psycopg2.extensions.connection = psycopg2.connect(self._dsn, **arguments)
            self._connection = connection
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(SERVER_SIDE)
                cursor.execute(f"LISTEN {_CHANNEL}")
                # Says that a daemon lives, for as long as it does.
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (daemon_lock(),))
        return self._connection
