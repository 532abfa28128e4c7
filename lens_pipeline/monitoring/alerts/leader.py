"""Which of several processes sends the alerts, and where it stores the row of its state."""

from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core.locks import LockSession, alerts_lock

# In Dagster's table of cursors.
_CURSOR = "lens/alerts"


class AlertLeader:
    """A lock in Dagster's database, which vanishes with its process. For one thread.

    Every method but `leave` raises SQLAlchemyError: the database cannot be used.
    """

    def __init__(self, dagster_url: str, instance: DagsterInstance) -> None:
        self._url = dagster_url
        self._storage = instance.run_storage
        self._session: LockSession | None = None

    def take(self) -> bool:
        """Whether this process is the leader."""
        try:
            if self._session is not None:
                # Fails if the session, and with it the lock, is lost.
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
        """What the last leader saved."""
        return self._storage.get_cursor_values({_CURSOR}).get(_CURSOR)

    def save(self, text: str) -> None:
        self._storage.set_cursor_values({_CURSOR: text})
