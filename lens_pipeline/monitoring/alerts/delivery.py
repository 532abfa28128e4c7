"""Sends messages through Apprise to mail, chats and web hooks.

An address may hold secrets: a target is named by its place in its setting and its scheme.
"""

import logging
import re
import threading
import time
from collections.abc import Iterable
from urllib.parse import unquote

import tenacity

from lens_pipeline.monitoring.alerts.messages import Message
from lens_pipeline.settings import SettingsError

logger = logging.getLogger(__name__)
# At level DEBUG Apprise logs addresses.
logging.getLogger("apprise").propagate = False
logging.getLogger("apprise").setLevel(logging.WARNING)

_LAST_WAIT_SECONDS = 120.0  # between two tries of one target
_KEPT_SECONDS = 900.0  # then a message is out of date
_SHORTEST_SECRET = 4  # characters; shorter parts of an address are words or a port


class Target:
    """One address; it delays no other."""

    def __init__(self, place: int, url: str, variable: str = "LENS_ALERT_URLS") -> None:
        """Raises SettingsError: Apprise does not understand the address."""
        import apprise  # which is slow to load

        scheme = url.partition("://")[0]
        self.name = f"target {place} ({scheme})"
        self.problem: str | None = None
        """Why the last try failed, or None."""
        parts = re.split(r"[/:@?&=,]+", url.partition("://")[2])
        found = {one for part in parts for one in (part, unquote(part))}
        self._secrets = sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len)[::-1]
        self._turn = threading.Lock()
        # A pool of threads would keep the process from ending.
        self._apprise = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
        if not self._apprise.add(url):
            raise SettingsError(
                f"{variable} has an address at place {place} ({scheme}://…) that Apprise does"
                " not understand: write it as Apprise's documentation of that service says"
            )

    def send(self, message: Message) -> bool:
        """Try once; returns whether it worked."""
        problem = self.attempt(message)
        if problem and problem != self.problem:
            logger.warning("alerts: %s: %s", self.name, problem)
        elif self.problem and not problem:
            logger.info("alerts: %s: works again", self.name)
        self.problem = problem
        return problem is None

    def deliver(
        self, message: Message, arrived: threading.Event, retrying: tenacity.Retrying
    ) -> None:
        """Try until the target takes the message, which sets `arrived`."""
        # The end of a problem must not arrive before its beginning.
        if not self._turn.acquire(timeout=_KEPT_SECONDS):
            self.problem = f"does not answer within {_KEPT_SECONDS:g} s"
            return
        try:
            retrying(self.send, message)
            arrived.set()
        except tenacity.RetryError:
            logger.warning("alerts: %s: given up: %s", self.name, message.title)
        finally:
            self._turn.release()

    def attempt(self, message: Message) -> str | None:
        """Why it failed; None: the message was taken."""
        try:
            result = self._apprise.notify(
                message.body, message.title, message.tone, body_format="text"
            )
        except Exception as error:  # noqa: BLE001 - of 190 plugins; its text may hold the address
            return f"fails: {type(error).__name__}"
        if result:
            return None
        reasons = "; ".join(str(entry.message) for entry in result.logs())
        for secret in self._secrets:
            reasons = reasons.replace(secret, "…")
        return " ".join(reasons.split())[:300] or "it was not taken"


def connect_targets(urls: Iterable[str]) -> list[Target]:
    """Raises SettingsError: Apprise does not understand one of the addresses."""
    return [Target(place, url) for place, url in enumerate(urls, start=1)]


def deliver(
    targets: Iterable[Target], message: Message, stop: threading.Event, first_wait: float = 5.0
) -> bool:
    """Wait until one target has taken the message; returns whether one has.

    The others are tried in the background, with growing pauses from `first_wait` seconds on.
    """
    arrived = threading.Event()
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda is_taken: not is_taken),
        wait=tenacity.wait_exponential(first_wait, max=_LAST_WAIT_SECONDS),
        stop=tenacity.stop_before_delay(_KEPT_SECONDS) | tenacity.stop_when_event_set(stop),
        sleep=tenacity.sleep_using_event(stop),
    )
    arguments = message, arrived, retrying
    for target in targets:
        # A daemon thread does not keep the process from ending.
        threading.Thread(target=target.deliver, args=arguments, daemon=True).start()
    end = time.monotonic() + _KEPT_SECONDS
    while not arrived.wait(1.0) and not stop.is_set() and time.monotonic() < end:
        pass
    return arrived.is_set()
