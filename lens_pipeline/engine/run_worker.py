"""Executes one Dagster run in this process, watched over by a thread."""

import logging
import os
import signal
import threading
from types import TracebackType

from dagster import DagsterEvent, DagsterInstance
from dagster._cli.api import _execute_run_command_body
from sqlalchemy.exc import OperationalError

from lens_pipeline import settings
from lens_pipeline.locks import LockSession, run_lock
from lens_pipeline.stack.endpoints import resolve

logger = logging.getLogger(__name__)

# A cancelled run should look cancelled at once; one query a second and run is nothing.
_POLL_SECONDS = 1.0
_ENDED = frozenset({"CANCELING", "CANCELED", "FAILURE"})


class RunWatch:
    """Holds the run's lock and interrupts the main thread when the run is to end.

    The lock tells the daemon that this worker lives (see `launcher.check_run_worker_health`). The
    status is polled rather than signalled so that cancelling works over any broker and machine.
    """

    def __init__(self, dagster_url: str, run_id: str) -> None:
        self._url = dagster_url
        self._run_id = run_id
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run-watch", daemon=True)
        self._session = LockSession(dagster_url)
        self.owned = bool(self._session.try_all([run_lock(run_id)]))

    def __enter__(self) -> "RunWatch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._session.close()

    def _watch(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            try:
                status = self._session.run_status(self._run_id)
            except OperationalError as error:
                logger.warning("run %s: lost its database session: %s", self._run_id, error.orig)
                self._reconnect()
                continue
            if status in _ENDED and not self._done.is_set():
                # Dagster's handler turns it into an interrupt of the step; repeated each second
                # because one that arrives between two steps is only noted.
                os.kill(os.getpid(), signal.SIGINT)

    def _reconnect(self) -> None:
        try:
            session = LockSession(self._url)
            session.try_all([run_lock(self._run_id)])
        except OperationalError:
            return  # the next poll tries again
        self._session, lost = session, self._session
        lost.close()


def execute(instance: DagsterInstance, run_id: str) -> int:
    """Execute a run that was created and launched. Returns 1 if it failed, else 0.

    A run that another worker executes, or that has ended, is left alone: a broker may deliver a
    task twice.
    """
    with RunWatch(resolve(settings.load()[0], broker=False).dagster_url, run_id) as watch:
        if not watch.owned:
            logger.warning("run %s is being executed elsewhere: ignored", run_id)
            return 0
        return _execute_run_command_body(
            run_id=run_id,
            instance=instance,
            write_stream_fn=_ignore,
            set_exit_code_on_failure=True,
        )


def _ignore(event: DagsterEvent) -> None:
    """Events are already in the event log; nobody reads this stream."""
