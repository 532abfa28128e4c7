"""Elects the process that sends the alerts, and stores its state."""

from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core.locks import LockSession, alerts_lock

_CURSOR = "lens/alerts"  # in Dagster's table of cursors


class AlertLeader:
    """Holds an advisory lock in Dagster's database. For one thread.

    Every method but `leave` raises SQLAlchemyError.
    """

    def __init__(self, dagster_url: str, instance: DagsterInstance) -> None:
        self._url = dagster_url
        self._storage = instance.run_storage
        self._session: LockSession | None = None

    def take(self) -> bool:
        """Whether this process is the leader; an error means that the lock is lost."""
        try:
            if self._session is not None:
                return self._session.is_held(alerts_lock())
            self._session = LockSession(self._url)
            if not self._session.try_all([alerts_lock()]):
                self.leave()
        except SQLAlchemyError:
            if self._session is not None:
                self._session.abandon()
                self._session = None
            raise
        return self._session is not None

    def leave(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def load(self) -> str | None:
        return self._storage.get_cursor_values({_CURSOR}).get(_CURSOR)

    def save(self, text: str) -> None:
        self._storage.set_cursor_values({_CURSOR: text})
