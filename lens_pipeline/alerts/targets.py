"""Where messages go: addresses of Apprise's, which reaches mail, chats and web hooks.

An address holds secrets in any of its parts, so nothing here repeats one: a target is told by its
place in LENS_ALERT_URLS and the first word of its address.
"""

import logging
import queue
import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from urllib.parse import unquote

from lens_pipeline.errors import LensError
from lens_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)

# Apprise tells of addresses when it debugs; what matters is in its results.
logging.getLogger("apprise").propagate = False
logging.getLogger("apprise").setLevel(logging.WARNING)

# Between tries of one target, doubled from the first to the last; seconds.
_FIRST_WAIT, _LAST_WAIT = 5.0, 600.0
# After so long the next message is worth more than this one.
_KEPT_SECONDS = 6 * 3600.0
_MOST_KEPT = 20
# A try that takes longer is told as a failure; the target's own thread waits on.
_TRY_SECONDS = 30.0
# Shorter parts of an address are words such as `to` or a port.
_SHORTEST_SECRET = 4


class Tone(StrEnum):
    """How a message is marked where the target can; Apprise's own words."""

    FAILURE = "failure"
    WARNING = "warning"
    SUCCESS = "success"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Message:
    """Plain text."""

    title: str
    body: str
    tone: Tone


class Undelivered(LensError):
    """A target did not take a message; the reason names no address."""


class Channel(Protocol):
    """Takes messages to one place."""

    name: str

    def send(self, message: Message) -> None:
        """Raises Undelivered."""
        ...


class AppriseChannel:
    """One of Apprise's addresses."""

    def __init__(self, place: int, url: str) -> None:
        """Raises SettingsError: Apprise does not understand the address."""
        # It knows 190 services, and takes a while to load.
        import apprise

        scheme = url.partition("://")[0]
        self.name = f"target {place} ({scheme})"
        self._secrets = _secrets(url)
        # In the thread of the caller: a pool would keep the process from ending.
        self._apprise = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
        if not self._apprise.add(url):
            raise SettingsError(
                f"LENS_ALERT_URLS has an address at place {place} ({scheme}://…) that Apprise does"
                " not understand: write it as Apprise's documentation of that service says"
            )

    def send(self, message: Message) -> None:
        result = self._apprise.notify(
            title=message.title,
            body=message.body,
            notify_type=message.tone.value,
            body_format="text",
        )
        if not result:
            reasons = "; ".join(str(entry.message) for entry in result.logs())
            raise Undelivered(self._scrubbed(reasons) or "it was not taken")

    def _scrubbed(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return " ".join(text.split())[:300]


def _secrets(url: str) -> list[str]:
    """The parts of an address, longest first."""
    parts = re.split(r"[/:@?&=,]+", url.partition("://")[2])
    found = {one for part in parts for one in (part, unquote(part))}
    return sorted((one for one in found if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)


def channels(urls: Iterable[str]) -> list[Channel]:
    """Raises SettingsError: Apprise does not understand one of them."""
    return [AppriseChannel(place, url) for place, url in enumerate(urls, start=1)]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way to one target."""

    message: Message
    at: float = field(default_factory=time.monotonic)
    arrived: threading.Event = field(default_factory=threading.Event)
    withdrawn: threading.Event = field(default_factory=threading.Event)
    """Set by whoever has a newer message instead."""


class Target:
    """Brings messages to one channel on a thread of its own, again and again until they arrive.

    A channel that hangs or fails holds up nobody else.
    """

    def __init__(self, channel: Channel, first_wait: float = _FIRST_WAIT) -> None:
        self._channel = channel
        self._first_wait = first_wait
        self._queue: queue.Queue[Delivery] = queue.Queue(_MOST_KEPT)
        self._stop = threading.Event()
        self._problem: str | None = None
        self._trying_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="lens-alert-target", daemon=True)

    @property
    def name(self) -> str:
        return self._channel.name

    @property
    def problem(self) -> str | None:
        """Why the last try failed; None once a message has arrived, or before there was any."""
        since = self._trying_since
        if since is not None and time.monotonic() - since > _TRY_SECONDS:
            return f"does not answer within {_TRY_SECONDS:g} s"
        return self._problem

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is under way is not waited for."""
        self._stop.set()

    def offer(self, message: Message) -> Delivery:
        """Have the message brought."""
        delivery = Delivery(message)
        while True:
            try:
                self._queue.put_nowait(delivery)
            except queue.Full:
                self._drop_oldest()
            else:
                return delivery

    def _drop_oldest(self) -> None:
        try:
            lost = self._queue.get_nowait()
        except queue.Empty:
            return
        logger.warning("alerts: %s: given up: %s", self.name, lost.message.title)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                delivery = self._queue.get(timeout=1.0)
            except queue.Empty:
                continue
            self._bring(delivery)

    def _bring(self, delivery: Delivery) -> None:
        wait = self._first_wait
        while not delivery.withdrawn.is_set():
            if self._try(delivery.message):
                delivery.arrived.set()
                return
            if time.monotonic() - delivery.at > _KEPT_SECONDS:
                logger.warning("alerts: %s: given up: %s", self.name, delivery.message.title)
                return
            if self._stop.wait(wait):
                return
            wait = min(2 * wait, _LAST_WAIT)

    def _try(self, message: Message) -> bool:
        self._trying_since = time.monotonic()
        try:
            self._channel.send(message)
        except Undelivered as error:
            self._note(str(error))
        except Exception as error:  # noqa: BLE001 - of 190 plugins; its text may hold the address
            self._note(f"fails: {type(error).__name__}")
        else:
            self._note(None)
            return True
        finally:
            self._trying_since = None
        return False

    def _note(self, problem: str | None) -> None:
        if problem and problem != self._problem:
            logger.warning("alerts: %s: %s: tried again", self.name, problem)
        elif problem is None and self._problem:
            logger.info("alerts: %s: works again", self.name)
        self._problem = problem


def standing(targets: Sequence[Target]) -> str:
    """In a few words whether alerts arrive."""
    if not targets:
        return "off"
    problems = [f"{target.name}: {target.problem}" for target in targets if target.problem]
    return "; ".join(problems) or "ok"
