"""Threads beside the requests of a process."""

import threading
from abc import ABC, abstractmethod


class BackgroundThread(ABC):
    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Wait at most `seconds` for its end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @abstractmethod
    def _run(self) -> None:
        """Work until `_stop` is set."""
