"""The addresses that messages go to: servers of the operator, and people by Apprise.

An address may hold secrets: a target is named by its place in its setting and its host or scheme.
"""

import asyncio
import hashlib
import ssl
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import certifi
import httpx2 as httpx
from standardwebhooks import Webhook as Scheme

from lens_pipeline import VERSION
from lens_pipeline.core.durations import retry_after_seconds
from lens_pipeline.event_log.history import State
from lens_pipeline.monitoring.alerts import delivery, messages
from lens_pipeline.monitoring.webhooks.messages import WebhookMessage
from lens_pipeline.settings import Settings

_ANSWER_SECONDS = 15.0
_MOST_READ = 64 * 1024
_GONE = 410
_LONGEST_WISH_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class SendResult:
    problem: str | None = None
    """None: the message was taken."""
    is_gone: bool = False
    """The target wants no messages any more."""
    retry_after: float = 0.0
    """Seconds that the target wishes for."""


class MessageTarget(ABC):
    at_once = 8
    """Requests to it."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        # Another place in the setting must not lose it.
        self.row = f"lens/webhooks/{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        self.request_row = f"{self.row}/replay"

    def wants(self, message: WebhookMessage) -> bool:
        return True

    @abstractmethod
    async def send(self, message: WebhookMessage, client: httpx.AsyncClient) -> SendResult:
        """Try once."""


class WebhookTarget(MessageTarget):
    """https://www.standardwebhooks.com: a target may be in a private network."""

    def __init__(self, place: int, url: str, secret: str) -> None:
        super().__init__(f"webhook {place} ({urlsplit(url).hostname})", url)
        self._url = url
        self._scheme = Scheme(secret)

    async def send(self, message: WebhookMessage, client: httpx.AsyncClient) -> SendResult:
        now, body = datetime.now(UTC), message.body
        headers = {
            "content-type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._scheme.sign(message.id, now, body),
        }
        try:
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                await _read(response)
        except (TimeoutError, httpx.TimeoutException):
            return SendResult(f"does not answer within {_ANSWER_SECONDS:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            # Without its text, which may quote the address.
            return SendResult(f"cannot be reached: {type(error).__name__}")
        if response.is_success:
            return SendResult()
        wished = min(retry_after_seconds(response.headers) or 0.0, _LONGEST_WISH_SECONDS)
        status = response.status_code
        return SendResult(f"answers {status}", is_gone=status == _GONE, retry_after=wished)


class NotifyTarget(MessageTarget):
    """Tells people of films, once each."""

    at_once = 1

    def __init__(self, place: int, url: str, settings: Settings) -> None:
        """Raises SettingsError: Apprise does not understand the address."""
        self._target = delivery.Target(place, url, "LENS_NOTIFY_URLS")
        super().__init__(self._target.name.replace("target", "notify"), url)
        self._settings = settings

    def wants(self, message: WebhookMessage) -> bool:
        is_final = message.data["status"] in (State.READY, State.DEAD)
        return message.data["kind"] == "master" and is_final

    async def send(self, message: WebhookMessage, client: httpx.AsyncClient) -> SendResult:
        told = film(message, self._settings)
        problem: Future[str | None] = Future()
        problem.set_running_or_notify_cancel()
        # Threads of a pool would delay others, and keep the process from ending.
        threading.Thread(
            target=lambda: problem.set_result(self._target.attempt(told)), daemon=True
        ).start()
        return SendResult(await asyncio.wrap_future(problem))


def film(message: WebhookMessage, settings: Settings) -> messages.Message:
    data = message.data
    name = data.get("name") or data["id"]
    page = messages.page_link(settings, f"masters?project={quote(data['project_id'], safe='')}")
    if data["status"] == State.READY:
        seconds = round(data["duration_seconds"] or 0)
        length = f"{seconds // 60}:{seconds % 60:02d}"
        return messages.Message(f"Your film is ready: {name}", f"{length}\n{page}", "success")
    reason = f"{data['error_class']}: {data['error']}"
    return messages.Message(f"Your film cannot be made: {name}", f"{reason}\n{page}", "failure")


async def _read(response: httpx.Response) -> None:
    """To the end, so that the connection serves again, unless that is far."""
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _MOST_READ:
            return


def http_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        headers={"user-agent": f"lens-pipeline/{VERSION}"},
        timeout=_ANSWER_SECONDS,
        # Targets that hang must not use up what others need.
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
        follow_redirects=False,
        # A slim image has no certificates.
        verify=ssl.create_default_context(cafile=certifi.where()),
    )


def connect_targets(settings: Settings) -> list[MessageTarget]:
    """Raises SettingsError: Apprise does not understand an address."""
    secret = settings.webhook_secret or ""
    # One that is named twice has one place in the log.
    hooks = enumerate(dict.fromkeys(settings.webhook_urls), start=1)
    people = enumerate(dict.fromkeys(settings.notify_urls), start=1)
    return [
        *(WebhookTarget(place, url, secret) for place, url in hooks),
        *(NotifyTarget(place, url, settings) for place, url in people),
    ]


def trial() -> WebhookMessage:
    data: dict[str, Any] = {"id": "test", "kind": "master", "project_id": "test", "name": "a test"}
    data |= {"status": State.READY, "duration_seconds": 65}
    now = datetime.now(UTC)
    return WebhookMessage(
        id=f"msg_test_{uuid4().hex}", type="webhook.test", timestamp=now, data=data
    )
