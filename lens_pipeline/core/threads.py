"""Threads beside the requests of a process."""

import threading
from abc import ABC, abstractmethod


class BackgroundThread(ABC):
    """Work on a thread of its own, until it is stopped."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End the thread, or wait at most `seconds` for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @abstractmethod
    def _run(self) -> None:
        """Work until `_stop` is set."""
