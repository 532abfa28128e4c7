"""The deadline of one fetch, and retries within one run."""

import contextvars
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from lens_pipeline.errors import SourceUnavailable, StoreUnavailable, TransientError

T = TypeVar("T")

# A cancellation is noticed within this time.
POLL_SECONDS = 0.2


class FetchCancelled(TransientError):
    """The run was cancelled during a fetch or a wait."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Before attempt n + 1 passes a random time up to `base_seconds * 2 ** (n - 1)`.

    `max_seconds` limits it. A longer Retry-After ends the attempts.
    """

    attempts: int = 3
    base_seconds: float = 0.5
    max_seconds: float = 10.0


FILE_RETRIES = RetryPolicy()


def retry_transient(
    call: Callable[[], T],
    policy: RetryPolicy,
    *,
    within_seconds: float = math.inf,
    cancelled: threading.Event | None = None,
) -> T:
    """Call until it succeeds, fails for good, or has no time left.

    Raises what the last call raised; FetchCancelled if `cancelled` is set during a wait.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((SourceUnavailable, StoreUnavailable)),
        wait=_wait(policy),
        stop=_stop(policy, within_seconds),
        sleep=lambda seconds: _pause(seconds, cancelled or threading.Event()),
        reraise=True,
    )
    return retrying(call)


def _wait(policy: RetryPolicy) -> Callable[[tenacity.RetryCallState], float]:
    backoff = tenacity.wait_random_exponential(policy.base_seconds, policy.max_seconds)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wished = error.retry_after_seconds if isinstance(error, SourceUnavailable) else None
        return max(backoff(state), wished or 0.0)

    return wait


def _stop(policy: RetryPolicy, within_seconds: float) -> Callable[[tenacity.RetryCallState], bool]:
    bounds = tenacity.stop_any(
        tenacity.stop_after_attempt(policy.attempts), tenacity.stop_before_delay(within_seconds)
    )
    return lambda state: bounds(state) or state.upcoming_sleep > policy.max_seconds


def _pause(seconds: float, cancelled: threading.Event) -> None:
    if cancelled.wait(seconds):
        raise FetchCancelled("the run was cancelled")


class Deadline:
    def __init__(self, seconds: float, cancelled: threading.Event) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancelled = cancelled
        # A host or object, for the message.
        self.waiting_for = "the source"

    def check(self) -> None:
        """Raise FetchCancelled, or SourceUnavailable at the end."""
        if self._cancelled.is_set():
            raise FetchCancelled("the run was cancelled")
        if time.monotonic() >= self._end:
            raise SourceUnavailable(f"{self.waiting_for}: not fetched within {self._seconds:g} s")

    def remaining(self) -> float:
        """Seconds, above 0, as a time-out of 0 would not block. Raises as `check`."""
        self.check()
        return max(self._end - time.monotonic(), 0.001)

    def pause(self, seconds: float) -> None:
        _pause(min(seconds, self.remaining()), self._cancelled)


# Of this thread: connections outlive fetches.
current_deadline: contextvars.ContextVar[Deadline] = contextvars.ContextVar("deadline")
