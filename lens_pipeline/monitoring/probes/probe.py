"""How a probe is asked and what it answers. The probes are in the other modules."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lens_pipeline.core import postgres
from lens_pipeline.errors import LensError
from lens_pipeline.media.errors import MediaError, ToolUnusable

ANSWER_SECONDS = 3  # then a service counts as gone
_KEPT_SECONDS = 2.0  # an answer, as several clients ask every few seconds


class ProbeError(LensError):
    """The message tells operators reason and fix; `problem`, without addresses, is for HTTP.

    Neither holds a password.
    """

    def __init__(self, problem: str, message: str | None = None) -> None:
        super().__init__(message or problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    value: Any = None
    """The answer of the service; for `lens doctor` a sentence."""
    problem: str | None = None
    """As of `ProbeError`; None if it is well."""
    fix: str | None = None
    at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def ok(self) -> bool:
        return self.problem is None

    @property
    def message(self) -> str:
        return self.fix or str(self.value)


def ask(name: str, look: Callable[[], Any]) -> Result:
    """What `look` returns, or the error that it raises."""
    try:
        return Result(name, look())
    except (LensError, MediaError, ToolUnusable) as error:
        is_ours = isinstance(error, ProbeError)
        problem = error.problem if is_ours else f"fails: {type(error).__name__}"
        return Result(name, problem=problem, fix=" ".join(str(error).split()))


def ask_within(seconds: float, name: str, look: Callable[[], Any]) -> Result:
    """As `ask`; a `look` that hangs is left behind."""
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(ask(name, look))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        problem = f"does not answer within {seconds:g} s"
        return Result(name, problem=problem, fix=f"{problem}: see to its disk or server")


@dataclass
class Probe:
    """Asks one service, once at a time, and keeps the answer for `kept_seconds`."""

    name: str
    look: Callable[[], Any]
    kept_seconds: float = _KEPT_SECONDS
    _result: Result | None = field(default=None, init=False)
    _asking: Future[Result] | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    async def answer(self, wait_seconds: float = ANSWER_SECONDS) -> Result:
        """A fresh answer, or after `wait_seconds` a problem."""
        asking = self._ask_if_old()
        if asking is None and self._result is not None:
            return self._result
        assert asking is not None  # noqa: S101
        try:
            waited = asyncio.shield(asyncio.wrap_future(asking))
            return await asyncio.wait_for(waited, wait_seconds)
        except TimeoutError:
            return Result(self.name, problem=f"does not answer within {wait_seconds:g} s")

    def last(self) -> Result | None:
        """What is known now; if it is old, the service is asked in the background."""
        self._ask_if_old()
        return self._result

    def _ask_if_old(self) -> Future[Result] | None:
        """The answer to come; None if the last is fresh."""
        with self._lock:
            result = self._result
            kept = self.kept_seconds if result and result.ok else _KEPT_SECONDS
            if result and time.monotonic() - result.at < kept:
                return None
            if self._asking is None:
                self._asking = Future()
                # A daemon thread does not keep the process from ending.
                threading.Thread(
                    target=self._run, args=(self._asking,), name=f"lens-{self.name}", daemon=True
                ).start()
            return self._asking

    def _run(self, asking: Future[Result]) -> None:
        try:
            with postgres.deadline(ANSWER_SECONDS):
                result = ask(self.name, self.look)
        except Exception as error:  # noqa: BLE001 - any error is what the probe finds
            result = Result(self.name, problem=f"fails: {type(error).__name__}")
        with self._lock:
            self._result, self._asking = result, None
        asking.set_result(result)
