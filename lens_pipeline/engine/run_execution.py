"""The execution of one Dagster run in this process."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import sqlalchemy as sa
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._cli.api import _execute_run_command_body
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline import settings
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.core.locks import LockSession, run_lock
from lens_pipeline.core.logs import bound, request_id
from lens_pipeline.core.telemetry import TRACE_TAG, span
from lens_pipeline.event_log.tags import ORIGIN_TAG, REQUEST_TAG

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
# Dagster only notes a signal between two steps. An early repetition would end a step's clean-up.
_SIGNAL_AGAIN_POLLS = 30
_STATUS = sa.text("SELECT status FROM runs WHERE run_id = :run")
_ENDED = frozenset({"CANCELING", "CANCELED", "FAILURE"})
_TO_BEGIN = frozenset({DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING})
_LAST_EVENTS = frozenset(
    {
        DagsterEventType.PIPELINE_SUCCESS,
        DagsterEventType.PIPELINE_FAILURE,
        DagsterEventType.PIPELINE_CANCELED,
    }
)


class RunWatch:
    """Holds the run's lock, the sign of life, and interrupts the main thread at a cancellation.

    It polls the status, which works over any broker and machine.
    """

    def __init__(self, dagster_url: str, run_id: str, poll_seconds: float = _POLL_SECONDS) -> None:
        self._url = dagster_url
        self._run_id = run_id
        self._poll_seconds = poll_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run-watch", daemon=True)
        self._session: LockSession | None = LockSession(dagster_url)
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
        if self._session is not None:
            self._session.close()

    def notice(self, event: DagsterEvent) -> None:
        """Stop at the run's last event."""
        if event.event_type in _LAST_EVENTS:
            self._done.set()

    def _watch(self) -> None:
        looks, polls_since_signal = 0, _SIGNAL_AGAIN_POLLS
        while not self._done.wait(self._poll_seconds):
            polls_since_signal += 1
            status = self._status()
            looks += status in _ENDED
            # A run records its end just before `notice` is called.
            decided = status == "CANCELING" or (status in _ENDED and looks > 1)
            if decided and polls_since_signal > _SIGNAL_AGAIN_POLLS and not self._done.is_set():
                polls_since_signal = 0
                # Dagster's handler interrupts the step.
                os.kill(os.getpid(), signal.SIGINT)

    def _status(self) -> str | None:
        """None without the database or the lock."""
        try:
            if self._session is None:
                self._session = self._locked_session()
            return self._session and self._session.execute(_STATUS, run=self._run_id).scalar()
        except SQLAlchemyError as error:
            logger.warning("run %s: lost its database session: %s", self._run_id, error)
            if self._session is not None:
                self._session.abandon()
                self._session = None
            return None

    def _locked_session(self) -> LockSession | None:
        session = LockSession(self._url)
        if session.try_all([run_lock(self._run_id)]):
            return session
        session.close()  # the server still has the old session
        return None


def execute(instance: DagsterInstance, run_id: str) -> int:
    """Returns 1 if the run failed, else 0.

    A run that has begun or ended is left alone: a broker may deliver a task again.
    """
    with RunWatch(resolve(settings.load()[0], broker=False).dagster_url, run_id) as watch:
        if not watch.owned:
            logger.info("run %s is being executed elsewhere: ignored", run_id)
            return 0
        run = instance.get_run_by_id(run_id)
        if run is None or run.status not in _TO_BEGIN:
            logger.info("run %s is %s: ignored", run_id, run.status.value if run else "deleted")
            return 0
        with _logged(run):
            return _execute_run_command_body(
                run_id=run_id,
                instance=instance,
                write_stream_fn=watch.notice,
                set_exit_code_on_failure=True,
            )


@contextmanager
def _logged(run: DagsterRun) -> Iterator[None]:
    """Log records and traces name the run and its request."""
    token = request_id.set(run.tags.get(REQUEST_TAG))
    try:
        parent, origin = run.tags.get(TRACE_TAG), run.tags.get(ORIGIN_TAG)
        with (
            bound(run_id=run.run_id),
            span(f"run {run.job_name}", {"run_id": run.run_id, "origin": origin}, parent=parent),
        ):
            yield
    finally:
        request_id.reset(token)
