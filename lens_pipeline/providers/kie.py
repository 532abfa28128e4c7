"""The provider kie.ai: the state of a task, and the signatures of its webhook.

https://docs.kie.ai/market/common/get-task-detail
https://docs.kie.ai/common-api/webhook-verification
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn
from urllib.parse import urlsplit

import certifi
import httpx2 as httpx
import tenacity

from lens_pipeline.core.durations import retry_after_seconds
from lens_pipeline.errors import LensError

logger = logging.getLogger(__name__)

# Keeps an id harmless in addresses, logs and messages.
TASK_ID = re.compile(r"[\x21-\x7e]{1,200}")

# All attempts together: the provider waits 15 s for a webhook's answer.
TOTAL_SECONDS = 10.0
_ATTEMPTS, _ATTEMPT_SECONDS = 3, 5.0
# No wait may leave less than this for an answer.
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 1024 * 1024
_MOST_URLS, _MAX_URL = 100, 4096
# The pause after a 429 without Retry-After: the limits are counted over 10 s.
_PAUSE_SECONDS = 10.0
# A longer Retry-After is taken for a fault.
_LONGEST_PAUSE_SECONDS = 3600.0

# Difference of the clocks plus time of a delivery.
SKEW_SECONDS = 300
# The oldest is forgotten: to handle a delivery again changes nothing.
_MOST_REMEMBERED = 10_000

_OK, _LIMITED, _MAINTENANCE, _FAILED = 200, 429, 455, 501
# 422 with "recordInfo is null".
_UNKNOWN = frozenset({404, 422})
_REFUSED = frozenset({401, 402, 403})


class TaskState(StrEnum):
    """How far a task is."""

    WAITING = "waiting"
    QUEUING = "queuing"
    GENERATING = "generating"
    SUCCESS = "success"
    FAIL = "fail"

    @property
    def is_final(self) -> bool:
        return self in (TaskState.SUCCESS, TaskState.FAIL)


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    state: TaskState
    urls: tuple[str, ...] = ()
    """At least one if the task succeeded."""
    failure: str | None = None
    """In the provider's words."""


class ProviderError(LensError):
    """The provider gives no usable state of a task."""


class UnknownTask(ProviderError):
    """The provider has no such task."""


class ProviderInvalid(ProviderError):
    """The answer makes no sense or refuses us; another attempt does not help."""


class ProviderUnavailable(ProviderError):
    """The provider is down, slow, or limits us."""

    def __init__(
        self, reason: str, *, is_late: bool = False, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.is_late = is_late
        self.retry_after_seconds = retry_after_seconds


class WebhookRefused(ProviderError):
    """A delivery is not the provider's (`bad_signature`), or is `expired`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def signature(key: str, task_id: str, timestamp: str) -> str:
    """The value of X-Webhook-Signature, which does not cover the body."""
    signed = f"{task_id}.{timestamp}".encode()
    return base64.b64encode(hmac.digest(key.encode(), signed, hashlib.sha256)).decode()


def verify_webhook(key: str, task_id: str, timestamp: str | None, signed: str | None) -> None:
    """Raises WebhookRefused."""
    expected = signature(key, task_id, timestamp or "")
    genuine = hmac.compare_digest(expected.encode(), (signed or "").encode(errors="replace"))
    if not genuine or not timestamp:
        raise WebhookRefused("bad_signature", "the signature does not fit the task and the time")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise WebhookRefused("expired", "X-Webhook-Timestamp is no time in seconds")
    if abs(time.time() - int(timestamp)) > SKEW_SECONDS:
        raise WebhookRefused("expired", f"the delivery is over {SKEW_SECONDS} s old, or from ahead")


class Deliveries:
    """Remembers handled deliveries while their signatures are valid. Thread-safe."""

    def __init__(self, most: int = _MOST_REMEMBERED, skew_seconds: float = SKEW_SECONDS) -> None:
        self._most = most
        # An early delivery is valid for twice the skew.
        self._valid_seconds = 2 * skew_seconds
        self._lock = threading.Lock()
        # The monotonic time of each, oldest first.
        self._handled: OrderedDict[str, float] = OrderedDict()

    def remember(self, name: str) -> None:
        with self._lock:
            self._handled[name] = time.monotonic()
            self._handled.move_to_end(name)
            if len(self._handled) > self._most:
                self._handled.popitem(last=False)

    def is_known(self, name: str) -> bool:
        with self._lock:
            since = time.monotonic() - self._valid_seconds
            while self._handled and next(iter(self._handled.values())) < since:
                self._handled.popitem(last=False)
            return name in self._handled


class Provider:
    """One for each process, as the rate limit is, and of one event loop."""

    def __init__(
        self, api: str, key: str, *, attempts: int = _ATTEMPTS, total_seconds: float = TOTAL_SECONDS
    ) -> None:
        self._attempts = attempts
        self._total_seconds = total_seconds
        self._url = f"{api.rstrip('/')}/api/v1/jobs/recordInfo"
        self._client = httpx.AsyncClient(
            # A compressed answer could be larger than what is counted.
            headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},
            timeout=_ATTEMPT_SECONDS,
            trust_env=False,
            follow_redirects=False,
            # A slim image has no certificates.
            verify=ssl.create_default_context(cafile=certifi.where()),
        )
        # The loop's time of the next request.
        self._free_at = 0.0

    async def task(self, task_id: str) -> Task:
        """Tries for `total_seconds`. Raises UnknownTask, ProviderInvalid or ProviderUnavailable."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._total_seconds
        last_turn = deadline - _ANSWER_SECONDS

        def is_worth_waiting(error: BaseException) -> bool:
            if not isinstance(error, ProviderUnavailable):
                return False
            wished = error.retry_after_seconds
            return wished is None or clock() + wished < last_turn

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_worth_waiting),
            wait=tenacity.wait_random_exponential(0.5, 4.0),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._attempts),
                tenacity.stop_before_delay(self._total_seconds),
            ),
            reraise=True,
        )
        try:
            # A read's time-out does not end an answer that trickles.
            async with asyncio.timeout_at(deadline):
                return await retrying(self._attempt, task_id, last_turn)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not answer within {self._total_seconds:g} s", is_late=True
            ) from None

    async def _attempt(self, task_id: str, last_turn: float) -> Task:
        await self._turn(last_turn)
        params = {"taskId": task_id}
        try:
            async with self._client.stream("GET", self._url, params=params) as response:
                body = await self._body(response)
        except httpx.TimeoutException:
            raise ProviderUnavailable("the provider does not answer", is_late=True) from None
        except httpx.TransportError as error:
            # Without its text, which may quote the request.
            raise ProviderUnavailable(
                f"the provider cannot be reached: {type(error).__name__}"
            ) from None
        return read_task(task_id, body)

    async def _turn(self, last: float) -> None:
        """Raises ProviderUnavailable if the provider limits us until `last`."""
        clock = asyncio.get_running_loop().time
        while (pause := self._free_at - clock()) > 0:
            if self._free_at >= last:
                raise _Limited(pause)
            await asyncio.sleep(pause)

    async def _body(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code >= 500:
            raise ProviderUnavailable(f"the provider answers {response.status_code}")
        if response.status_code == _LIMITED:
            self._limit(response.headers)
        if response.is_redirect:
            raise ProviderInvalid("the provider redirects, which is not followed: see LENS_KIE_API")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > _MAX_BYTES:
                raise ProviderInvalid(f"the provider's answer is over {_MAX_BYTES:,} bytes")
        body = _json_object(content)
        if body is None or (response.status_code != _OK and body.get("code") == _OK):
            raise ProviderInvalid(
                f"the provider answers {response.status_code} with what makes no sense"
            )
        if body.get("code") == _LIMITED:
            self._limit(response.headers)
        return body

    def _limit(self, headers: Mapping[str, str]) -> NoReturn:
        """Holds all requests. Raises _Limited."""
        wished = retry_after_seconds(headers)
        pause = min(_PAUSE_SECONDS if wished is None else wished, _LONGEST_PAUSE_SECONDS)
        logger.warning("the provider limits us for %g s", pause)
        self._free_at = max(self._free_at, asyncio.get_running_loop().time() + pause)
        raise _Limited(pause)


class _Limited(ProviderUnavailable):
    """The provider answers 429, or has lately."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the provider limits us for another {seconds:.0f} s", retry_after_seconds=seconds
        )


def read_task(task_id: str, body: Mapping[str, Any]) -> Task:
    """Raises UnknownTask, ProviderInvalid or ProviderUnavailable."""
    code = body.get("code")
    data = body.get("data")
    if not isinstance(code, int):
        raise ProviderInvalid("the provider's answer has no code")
    if code in _UNKNOWN:
        raise UnknownTask(f"the provider knows no task {task_id!r}")
    if code in _REFUSED:
        raise ProviderInvalid(f"the provider refuses us with code {code}: see LENS_KIE_API_KEY")
    if code in (_MAINTENANCE, 500):
        raise ProviderUnavailable(f"the provider answers code {code}")
    if code not in (_OK, _FAILED) or not isinstance(data, dict):
        raise ProviderInvalid(f"the provider's answer has code {code} and no task")
    if data.get("taskId") != task_id:
        raise ProviderInvalid("the provider's answer is about another task")
    try:
        state = TaskState(data.get("state"))
    except ValueError:
        raise ProviderInvalid(
            f"the task has the unknown state {str(data.get('state'))[:40]!r}"
        ) from None
    if state is TaskState.FAIL:
        return Task(task_id, state, failure=_words(data.get("failMsg")))
    if code == _FAILED:
        raise ProviderInvalid(f"the task is {state} and failed")
    return Task(task_id, state, _urls(data) if state is TaskState.SUCCESS else ())


def _urls(data: Mapping[str, Any]) -> tuple[str, ...]:
    result = data.get("resultJson")
    found = _json_object(result.encode(errors="replace")) if isinstance(result, str) else None
    urls = found.get("resultUrls") if found else None
    if not isinstance(urls, list) or not urls:
        raise ProviderInvalid("the task succeeded without a result")
    if len(urls) > _MOST_URLS or not all(map(_is_url, urls)):
        raise ProviderInvalid("the task's result is no list of http(s) addresses")
    return tuple(urls)


def _is_url(value: object) -> bool:
    if not isinstance(value, str) or len(value) > _MAX_URL or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        # An impossible port raises ValueError.
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_whole and " " not in value


def _words(value: object) -> str | None:
    """One printable line of at most 500 characters."""
    if not isinstance(value, str):
        return None
    line = " ".join(value.split())
    return "".join(filter(str.isprintable, line))[:500] or None


def _json_object(content: bytes | bytearray) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
