"""A worker's attempts to reach its broker."""

import time

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

_BETWEEN_ATTEMPTS_SECONDS = 5.0
_LOOK_SECONDS = 0.1


class PatientConsumer(Consumer):
    """Also waits after a refusal, as Celery does not: RabbitMQ refuses within milliseconds."""

    _last_attempt = float("-inf")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        super().on_connection_error_before_connected(exc)
        self._wait()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._wait()

    def _wait(self) -> None:
        while time.monotonic() < self._last_attempt + _BETWEEN_ATTEMPTS_SECONDS:
            maybe_shutdown()
            time.sleep(_LOOK_SECONDS)
        self._last_attempt = time.monotonic()
