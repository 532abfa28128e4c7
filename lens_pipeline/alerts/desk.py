"""Which of several processes sends the alerts, and what it remembers.

A lock in Dagster's database, which vanishes with the process, makes one of them the sender; what
was told lies in Dagster's own table of cursors.
"""

from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core.locks import LockSession, alerts_lock

_CURSOR = "lens/alerts"


class Desk:
    """The place that one process at a time takes. Not safe to share between threads."""

    def __init__(self, dagster_url: str, instance: DagsterInstance) -> None:
        self._url = dagster_url
        self._instance = instance
        self._session: LockSession | None = None

    def take(self) -> bool:
        """Whether the place is ours. Raises SQLAlchemyError: it cannot be said."""
        try:
            if self._session is not None:
                # Fails if the session, and with it the lock, is lost.
                self._session.is_held(alerts_lock())
                return True
            session = LockSession(self._url)
            if session.try_all([alerts_lock()]):
                self._session = session
                return True
            session.close()
        except SQLAlchemyError:
            if self._session is not None:
                self._session.abandon()
                self._session = None
            raise
        return False

    def leave(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def remembered(self) -> str | None:
        """What the last holder kept. Raises SQLAlchemyError."""
        return self._instance.run_storage.get_cursor_values({_CURSOR}).get(_CURSOR)

    def keep(self, text: str) -> None:
        """Raises SQLAlchemyError."""
        self._instance.run_storage.set_cursor_values({_CURSOR: text})
