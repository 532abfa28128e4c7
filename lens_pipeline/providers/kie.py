"""Asks the generation provider kie what became of a task. Routes and SQL are elsewhere.

The interface: https://docs.kie.ai/market/common/get-task-detail
"""

import asyncio
import json
import logging
import re
import ssl
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

# Harmless in addresses, logs and messages.
TASK_ID = re.compile(r"[\x21-\x7e]{1,200}")

# For all attempts: the provider waits 15 s for the answer to a webhook.
TOTAL_SECONDS = 10.0
_ATTEMPT_SECONDS = 5.0
_ATTEMPTS = 3
# Shorter remaining times are not worth a wait.
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 1024 * 1024
_MOST_URLS = 100
_MAX_URL = 4096
# Without Retry-After: the limits are counted over 10 s.
_PAUSE_SECONDS = 10.0
# A longer Retry-After is a fault: it would keep us silent for days.
_LONGEST_PAUSE_SECONDS = 3600.0

_OK, _FAILED = 200, 501
# 422 with "recordInfo is null".
_UNKNOWN = frozenset({404, 422})
_LIMITED = 429
_MAINTENANCE = 455
_REFUSED = frozenset({401, 402, 403})


class TaskState(StrEnum):
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
    """A task as the provider describes it."""

    id: str
    state: TaskState
    urls: tuple[str, ...] = ()
    """Of results; at least one after success."""
    failure: str | None = None
    """In the provider's words."""


class ProviderError(LensError):
    """The provider does not say what became of a task."""


class UnknownTask(ProviderError):
    """The provider has no such task."""


class ProviderInvalid(ProviderError):
    """The answer makes no sense, or refuses us: another attempt does not help."""


class ProviderUnavailable(ProviderError):
    """The provider is down, slow, or limits us."""

    def __init__(
        self, reason: str, *, is_late: bool = False, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.is_late = is_late
        self.retry_after_seconds = retry_after_seconds


class Provider:
    """The provider at one address, for one event loop.

    A process has one, since the rate limit is shared.
    """

    def __init__(self, api: str, key: str) -> None:
        self._url = f"{api.rstrip('/')}/api/v1/jobs/recordInfo"
        # Compressed answers could be larger than what is counted. Only the settings read the
        # environment.
        headers = {"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=_ATTEMPT_SECONDS,
            trust_env=False,
            follow_redirects=False,
            # A slim image has no certificates.
            verify=ssl.create_default_context(cafile=certifi.where()),
        )
        # When the next request is allowed, by the loop's clock.
        self._free_at = 0.0

    async def task(self, task_id: str) -> Task:
        """The state of a task, within 10 s and several attempts.

        Raises UnknownTask, ProviderInvalid or ProviderUnavailable.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + TOTAL_SECONDS
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
                tenacity.stop_after_attempt(_ATTEMPTS), tenacity.stop_before_delay(TOTAL_SECONDS)
            ),
            reraise=True,
        )
        try:
            # Time-outs of single reads do not end an answer that trickles.
            async with asyncio.timeout_at(deadline):
                return await retrying(self._attempt, task_id, last_turn)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not answer within {TOTAL_SECONDS:g} s", is_late=True
            ) from None

    async def _attempt(self, task_id: str, last_turn: float) -> Task:
        await self._turn(last_turn)
        try:
            async with self._client.stream(
                "GET", self._url, params={"taskId": task_id}
            ) as response:
                body = await self._body(response)
        except httpx.TimeoutException:
            raise ProviderUnavailable("the provider does not answer", is_late=True) from None
        except httpx.TransportError as error:
            # Its words may quote the request.
            raise ProviderUnavailable(
                f"the provider cannot be reached: {type(error).__name__}"
            ) from None
        return read_task(task_id, body)

    async def _turn(self, last: float) -> None:
        """Wait while the provider limits us. Raises ProviderUnavailable: until after `last`."""
        clock = asyncio.get_running_loop().time
        while (pause := self._free_at - clock()) > 0:
            if self._free_at >= last:
                raise _Limited(pause)
            await asyncio.sleep(pause)

    async def _body(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON object of a response."""
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
        """Delay all requests as the provider wants. Raises _Limited."""
        wished = retry_after_seconds(headers)
        pause = min(_PAUSE_SECONDS if wished is None else wished, _LONGEST_PAUSE_SECONDS)
        logger.warning("the provider limits us for %g s", pause)
        free_at = asyncio.get_running_loop().time() + pause
        self._free_at = max(self._free_at, free_at)
        raise _Limited(pause)


class _Limited(ProviderUnavailable):
    """The answer is 429, or was lately."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the provider limits us for another {seconds:.0f} s", retry_after_seconds=seconds
        )


def read_task(task_id: str, body: Mapping[str, Any]) -> Task:
    """Parse an answer to `recordInfo`.

    Raises UnknownTask, ProviderInvalid or ProviderUnavailable.
    """
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
        # Reading the port validates it.
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_whole and " " not in value


def _words(value: object) -> str | None:
    """One printable line for people."""
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
