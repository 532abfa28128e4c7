"""What every provider is asked: its webhooks, its tasks, and new addresses of results."""

import abc
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from lens_pipeline.errors import LensError

# Keeps an id harmless in addresses, logs and messages.
TASK_ID = re.compile(r"[\x21-\x7e]{1,200}")

_MOST_URLS, _MAX_URL = 100, 4096
# Where answers name their results; a list or object within them is searched as well.
_RESULT_KEYS = (
    *("resultUrls", "result_urls", "resultUrl", "outputs", "output", "results", "result"),
    *("images", "image", "videos", "video", "urls", "url"),
)
# Of content types; many stores call all files `application/octet-stream`.
_FOREIGN = frozenset({"audio", "text", "model", "font"})

# Difference of the clocks plus time of a delivery.
SKEW_SECONDS = 300
# The oldest is forgotten: to handle a delivery again changes nothing.
_MOST_REMEMBERED = 10_000


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
    credits: float | None = None
    """What it cost, if the provider says so."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one question. Providers wait 15 s for a webhook's answer."""

    attempts: int = 3
    total_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request to a webhook's address."""

    body: bytes
    headers: Mapping[str, str]
    """Compared without case."""
    query: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Raises WebhookInvalid."""
        try:
            message = json.loads(self.body)
        except (ValueError, RecursionError):
            raise WebhookInvalid("invalid_json", "the body is no JSON that can be read") from None
        if not isinstance(message, dict):
            raise WebhookInvalid("invalid_json", "the body is no JSON object")
        return message


@dataclass(frozen=True, slots=True)
class Notice:
    """A webhook that is the provider's own."""

    name: str
    """The same for a delivery that is repeated."""
    task_id: str
    task: Task | None = None
    """None: its body is not proved, or does not tell; the task is to be asked for."""


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


class ProviderUnset(ProviderError):
    """A setting is missing."""

    def __init__(self, code: str, variable: str) -> None:
        super().__init__(f"{variable} is not set: set it and start again")
        self.code = code


class WebhookRefused(ProviderError):
    """A delivery is not the provider's (`bad_signature`), or is `expired`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class WebhookInvalid(WebhookRefused):
    """The body cannot be read, or names no task."""


class Provider(abc.ABC):
    """A service that generates. One for each process, as its limits are, and of one event loop."""

    def __init__(self, api_key: str | None, variable: str) -> None:
        """`variable`: the setting that holds `api_key`."""
        self._has_key, self._variable = api_key is not None, variable

    def require_key(self) -> None:
        """Raises ProviderUnset: its tasks cannot be asked for."""
        if not self._has_key:
            raise ProviderUnset("provider_not_configured", self._variable)

    @abc.abstractmethod
    async def notice(self, webhook: Webhook) -> Notice:
        """Raises WebhookRefused, ProviderUnset, ProviderInvalid or ProviderUnavailable."""

    @abc.abstractmethod
    async def task(self, task_id: str, model: str | None = None) -> Task:
        """`model`: what the row's provider column names after the provider.

        Raises UnknownTask, ProviderInvalid, ProviderUnavailable or ProviderUnset.
        """

    @abc.abstractmethod
    async def aclose(self) -> None:
        """End its connections, before its event loop ends."""

    async def fresh_url(self, url: str) -> str | None:
        """Another address of a result that is refused or gone under `url`; None: there is none.

        Raises ProviderError.
        """
        return None


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


def require_recent(timestamp: str | None, header: str) -> None:
    """Raises WebhookRefused: a delivery that was recorded may be sent again much later."""
    if not re.fullmatch(r"[0-9]{1,12}", timestamp or ""):
        raise WebhookRefused("expired", f"{header} is no time in seconds")
    if abs(time.time() - int(timestamp or "")) > SKEW_SECONDS:
        raise WebhookRefused("expired", f"the delivery is over {SKEW_SECONDS} s old, or from ahead")


def result_urls(result: object) -> tuple[str, ...]:
    """The addresses in a result: a list, an object that names them, or JSON text of either.

    Raises ProviderInvalid: there is none, there are too many, or one is no http(s) address.
    """
    found = _named(result, depth=8)
    if not found:
        raise ProviderInvalid("the task succeeded without a result")
    urls = tuple(one for one in found if isinstance(one, str) and _is_url(one))
    if len(found) > _MOST_URLS or len(urls) < len(found):
        raise ProviderInvalid("the task's result is no list of http(s) addresses")
    return urls


def _named(value: object, depth: int) -> list[object]:
    if depth == 0 or value is None:
        return []
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{", '"'):
        value = json_of(value) or value
    if isinstance(value, list):
        return [found for one in value for found in _named(one, depth - 1)]
    if isinstance(value, dict):
        return _named(_named_value(value), depth - 1)
    return [value] if value else []


def _named_value(result: Mapping[str, Any]) -> object:
    """What names the files of an object; None: nothing does, or it is a sound, for example."""
    if str(result.get("content_type")).partition("/")[0] in _FOREIGN:
        return None
    return next((result[key] for key in _RESULT_KEYS if result.get(key)), None)


def json_of(content: str | bytes | bytearray) -> Any:
    """None: it is no JSON that can be read."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_url(value: str) -> bool:
    if len(value) > _MAX_URL or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        # An impossible port raises ValueError.
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_whole and " " not in value


def in_words(value: object) -> str | None:
    """One printable line of at most 500 characters."""
    if not isinstance(value, str):
        return None
    line = " ".join(value.split())
    return "".join(filter(str.isprintable, line))[:500] or None
