"""Deliveries of the provider's webhook: which are genuine, and which were handled already.

https://docs.kie.ai/common-api/webhook-verification: the task's id and a time in seconds are signed,
the body is not.
"""

import base64
import hashlib
import hmac
import re
import threading
import time
from collections import OrderedDict

from lens_pipeline.web.errors import ApiError

# How far the provider's clock and ours may be apart, and how long a delivery may be under way.
SKEW_SECONDS = 300
# Beyond so many the oldest is forgotten: handling a delivery again changes nothing.
_MOST_REMEMBERED = 10_000


def signature(key: str, task_id: str, timestamp: str) -> str:
    """What the provider sends as X-Webhook-Signature."""
    signed = f"{task_id}.{timestamp}".encode()
    return base64.b64encode(hmac.digest(key.encode(), signed, hashlib.sha256)).decode()


def verify(key: str, task_id: str, timestamp: str | None, signed: str | None) -> None:
    """Raises ApiError: the delivery is not the provider's, or not of now."""
    expected = signature(key, task_id, timestamp or "")
    genuine = hmac.compare_digest(expected.encode(), (signed or "").encode(errors="replace"))
    if not genuine or not timestamp:
        raise ApiError(401, "bad_signature", "the signature does not fit the task and the time")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise ApiError(401, "expired", "X-Webhook-Timestamp is no time in seconds")
    if abs(time.time() - int(timestamp)) > SKEW_SECONDS:
        raise ApiError(401, "expired", f"the delivery is over {SKEW_SECONDS} s old, or from ahead")


class Deliveries:
    """Remembers signatures for as long as they are valid. Safe to share between threads."""

    def __init__(self, most: int = _MOST_REMEMBERED, skew_seconds: float = SKEW_SECONDS) -> None:
        self._most = most
        # One that came early is valid for twice the skew.
        self._valid_seconds = 2 * skew_seconds
        self._lock = threading.Lock()
        # When each was handled, oldest first, by the monotonic clock.
        self._handled: OrderedDict[str, float] = OrderedDict()

    def remember(self, signed: str) -> None:
        with self._lock:
            self._handled[signed] = time.monotonic()
            self._handled.move_to_end(signed)
            if len(self._handled) > self._most:
                self._handled.popitem(last=False)

    def is_known(self, signed: str) -> bool:
        """Whether the same delivery was handled, and could still be valid."""
        with self._lock:
            since = time.monotonic() - self._valid_seconds
            while self._handled and next(iter(self._handled.values())) < since:
                self._handled.popitem(last=False)
            return signed in self._handled
