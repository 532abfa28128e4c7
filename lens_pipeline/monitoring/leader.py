"""Elects one of several processes, and keeps what it knows beside Dagster's cursors."""

from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.core.locks import LockSession


class Leader:
    """Holds an advisory lock in Dagster's database. For one thread, but `load` and `save`.

    Every method but `leave` raises SQLAlchemyError.
    """

    def __init__(self, dagster_url: str, instance: DagsterInstance, lock: int) -> None:
        self._url = dagster_url
        self._storage = instance.run_storage
        self._lock = lock
        self._session: LockSession | None = None
        self._leads = False

    def take(self) -> bool:
        """Whether this process is the leader; an error means that the lock is lost."""
        try:
            # Kept where another leads: a connection for every look costs more.
            self._session = self._session or LockSession(self._url)
            if self._leads:
                self._leads = self._session.is_held(self._lock)
            else:
                self._leads = bool(self._session.try_all([self._lock]))
        except SQLAlchemyError:
            self._leads = False
            if self._session is not None:
                self._session.abandon()
                self._session = None
            raise
        return self._leads

    def leave(self) -> None:
        self._leads = False
        if self._session is not None:
            self._session.close()
            self._session = None

    def load(self, *names: str) -> dict[str, str]:
        return dict(self._storage.get_cursor_values(set(names)))

    def save(self, name: str, text: str) -> None:
        self._storage.set_cursor_values({name: text})
