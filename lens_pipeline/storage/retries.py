"""Retries within one run."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from lens_pipeline.errors import (
    SourceUnavailable,
    StoreUnavailable,
    TransientError,
)

T = TypeVar("T")


class FetchCancelled(TransientError):
    """The run was cancelled while a file was being fetched or waited for."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a transient failure is tried again inside one run.

    Before attempt n + 1 a random time up to `base_seconds * 2 ** (n - 1)` passes,
    `max_seconds` at the most. A server that asks by Retry-After for a longer wait than that is
    not asked again in this run.
    """

    attempts: int = 3
    base_seconds: float = 0.5
    max_seconds: float = 10.0


FILE_RETRIES = RetryPolicy()


def retry_transient(
    call: Callable[[], T],
    policy: RetryPolicy,
    *,
    within_seconds: float,
    cancelled: threading.Event | None = None,
) -> T:
    """Call until it succeeds, fails for good, or the next attempt would not fit any more.

    Raises what the last call raised; FetchCancelled if `cancelled` is set during a wait.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((SourceUnavailable, StoreUnavailable)),
        wait=_wait(policy),
        stop=_stop(policy, within_seconds),
        sleep=lambda seconds: pause(seconds, cancelled or threading.Event()),
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


def pause(seconds: float, cancelled: threading.Event) -> None:
    if cancelled.wait(seconds):
        raise FetchCancelled("the run was cancelled")
