"""Requests to a provider's API, within its limits and a deadline."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import certifi
import httpx2 as httpx
import tenacity

from lens_pipeline.core.durations import retry_after_seconds
from lens_pipeline.providers.models import Limits, ProviderInvalid, ProviderUnavailable, json_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPT_SECONDS = 5.0
# No wait may leave less than this for an answer.
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 1024 * 1024
# The pause after a 429 without Retry-After: kie.ai counts its limits over 10 s.
_PAUSE_SECONDS = 10.0
# A longer Retry-After is taken for a fault.
_LONGEST_PAUSE_SECONDS = 3600.0
_LIMITED = 429


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any
    """JSON; None: it is none."""


class Client:
    """Of one event loop."""

    def __init__(
        self, api: str, variable: str, authorization: str | None, limits: Limits | None = None
    ) -> None:
        """`variable`: the setting that names `api`."""
        self._api = api.rstrip("/")
        self._variable = variable
        self._limits = limits or Limits()
        # A compressed answer could be larger than what is counted.
        headers = {"Accept-Encoding": "identity"}
        if authorization:
            headers["Authorization"] = authorization
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=_ATTEMPT_SECONDS,
            trust_env=False,
            follow_redirects=False,
            # A slim image has no certificates.
            verify=ssl.create_default_context(cafile=certifi.where()),
        )
        # The loop's time of the next request.
        self._free_at = 0.0

    async def aclose(self) -> None:
        await self._client.aclose()

    async def repeated(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """`attempt` until it works, for `total_seconds`; it takes the time to give up waiting.

        Raises what `attempt` raises, and ProviderUnavailable.
        """
        clock = asyncio.get_running_loop().time
        total = self._limits.total_seconds
        deadline = clock() + total
        last_turn = deadline - _ANSWER_SECONDS

        async def once() -> T:
            return await attempt(last_turn)

        def is_worth_waiting(error: BaseException) -> bool:
            if not isinstance(error, ProviderUnavailable):
                return False
            wished = error.retry_after_seconds
            return wished is None or clock() + wished < last_turn

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_worth_waiting),
            wait=tenacity.wait_random_exponential(0.5, 4.0),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._limits.attempts),
                tenacity.stop_before_delay(total),
            ),
            reraise=True,
        )
        try:
            # A read's time-out does not end an answer that trickles.
            async with asyncio.timeout_at(deadline):
                return await retrying(once)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not answer within {total:g} s", is_late=True
            ) from None

    async def ask(self, method: str, path: str, last_turn: float, **more: Any) -> Answer:
        """Raises ProviderInvalid or ProviderUnavailable."""
        await self._turn(last_turn)
        try:
            async with self._client.stream(method, f"{self._api}{path}", **more) as response:
                return await self._answer(response)
        except httpx.TimeoutException:
            raise ProviderUnavailable("the provider does not answer", is_late=True) from None
        except httpx.TransportError as error:
            # Without its text, which may quote the request.
            raise ProviderUnavailable(
                f"the provider cannot be reached: {type(error).__name__}"
            ) from None

    def limit(self, headers: Mapping[str, str]) -> NoReturn:
        """Holds all requests. Raises ProviderUnavailable."""
        wished = retry_after_seconds(headers)
        pause = min(_PAUSE_SECONDS if wished is None else wished, _LONGEST_PAUSE_SECONDS)
        logger.warning("the provider limits us for %g s", pause)
        self._free_at = max(self._free_at, asyncio.get_running_loop().time() + pause)
        raise _limited(pause)

    async def _turn(self, last: float) -> None:
        """Raises ProviderUnavailable if the provider limits us until `last`."""
        clock = asyncio.get_running_loop().time
        while (pause := self._free_at - clock()) > 0:
            if self._free_at >= last:
                raise _limited(pause)
            await asyncio.sleep(pause)

    async def _answer(self, response: httpx.Response) -> Answer:
        if response.status_code >= 500:
            raise ProviderUnavailable(f"the provider answers {response.status_code}")
        if response.status_code == _LIMITED:
            self.limit(response.headers)
        if response.is_redirect:
            raise ProviderInvalid(
                f"the provider redirects, which is not followed: see {self._variable}"
            )
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > _MAX_BYTES:
                raise ProviderInvalid(f"the provider's answer is over {_MAX_BYTES:,} bytes")
        return Answer(response.status_code, response.headers, json_of(content))


def _limited(seconds: float) -> ProviderUnavailable:
    return ProviderUnavailable(
        f"the provider limits us for another {seconds:.0f} s", retry_after_seconds=seconds
    )
