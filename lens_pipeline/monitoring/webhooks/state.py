"""What a target has taken and what waits for it. No I/O; times are in seconds since the epoch."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pydantic import BaseModel, Field, ValidationError

from lens_pipeline.core.durations import spoken
from lens_pipeline.event_log.changes import Position
from lens_pipeline.monitoring.webhooks.messages import WebhookMessage

logger = logging.getLogger(__name__)
# A request for what waits alone, where others are for a time.
WAITING = "waiting"
_LATE_SECONDS = 600.0
# After that, what a target refuses while it takes others is given up.
_REFUSED_SECONDS = 3 * 86400.0


class Delivery(BaseModel):
    """A message on its way."""

    message: WebhookMessage
    failed_at: float | None = None
    """The first time."""
    refused_at: float | None = None
    """The first time after the target had taken others."""
    problem: str | None = None
    # Not stored: an outage would be one write a try.
    failures: int = Field(default=0, exclude=True)
    retry_at: float = Field(default=0.0, exclude=True)
    # As the target wishes: the end of an outage does not change it.
    not_before: float = Field(default=0.0, exclude=True)
    is_sending: bool = Field(default=False, exclude=True)


class TargetState(BaseModel):
    """The stored row of a target. For one thread."""

    events: dict[str, int] = Field(default_factory=dict)
    """The last event read of each asset."""
    ends: int = 0
    """The last end of a run that was read."""
    waiting: list[Delivery] = Field(default_factory=list)
    """Read and not taken yet, in their order."""
    taken_at: float | None = None
    problem: str | None = None
    """Why the last try failed; None: it did not, or of a message that is refused alone."""
    is_gone: bool = False
    """It has answered 410, and nothing is sent until someone asks for it."""

    @property
    def failing_since(self) -> float | None:
        """When what waits for a repetition failed first."""
        return min((one.failed_at for one in self.waiting if one.failed_at), default=None)

    def place(self, assets: Sequence[str], latest: Position) -> Position:
        """Where to read on; what was never read begins at the end.

        So does a log that is shorter than it was, such as a restored one.
        """
        read = [
            self.events.get(asset, last) for asset, last in zip(assets, latest.assets, strict=True)
        ]
        ends = min(self.ends, latest.ends) if self.events else latest.ends
        return Position(tuple(map(min, read, latest.assets)), ends)

    def add(
        self, messages: Iterable[WebhookMessage], assets: Sequence[str], after: Position
    ) -> None:
        known = {one.message.id for one in self.waiting}
        self.waiting += [Delivery(message=one) for one in messages if one.id not in known]
        # After a replay, what is read again happened before what waits.
        self.waiting.sort(key=lambda one: one.message.event_id)
        self.events, self.ends = dict(zip(assets, after.assets, strict=True)), after.ends

    def revive(self) -> None:
        """Send again at once what waits."""
        self.is_gone = False
        for one in self.waiting:
            one.retry_at = 0.0

    def rewind(self, assets: Sequence[str], before: Position) -> None:
        """Read again from the place `before` on, or from where it has not read yet."""
        self.add((), assets, self.place(assets, before))

    @property
    def reason(self) -> str | None:
        """Why something waits that was tried; None: nothing does."""
        if self.is_gone:
            return "wants no messages any more (410): `lens webhooks replay` sends them again"
        failed = [one for one in self.waiting if one.failed_at]
        return min(failed, key=lambda one: one.failed_at or 0.0).problem if failed else None

    def trouble(self, now: float) -> str | None:
        """What people must be told."""
        since = self.failing_since
        if self.is_gone or since is None:
            return self.reason
        if now - since < _LATE_SECONDS:
            return None
        waits = f"{len(self.waiting)} wait here: {self.reason}"
        idle = now - max(since, self.taken_at or 0.0)
        if idle < _LATE_SECONDS:
            return f"has refused a message for {spoken(now - since)} and takes others, {waits}"
        return f"has not taken messages for {spoken(idle)}, {waits}"

    def due(self, now: float, most: int) -> list[Delivery]:
        """The first of each subject, unless it is being sent or to be tried later."""
        return [] if self.is_gone else list(islice(self._due(now), most))

    def take(self, one: Delivery, now: float) -> None:
        """It has arrived; what failed since the last one did is due at once."""
        before, self.taken_at, self.problem = self.taken_at or 0.0, now, None
        self._remove(one)
        for other in self.waiting:
            if (other.failed_at or 0.0) > before:
                other.retry_at = max(now, other.not_before)

    def refuse(
        self, one: Delivery, problem: str, pause: float, now: float, wished: float = 0.0
    ) -> bool:
        """It has not arrived; returns whether it is given up. `wished`: by Retry-After."""
        one.failures += 1
        one.failed_at = one.failed_at or now
        one.not_before = now + wished
        one.retry_at = now + max(pause, wished)
        one.problem = problem
        if (self.taken_at or 0.0) > one.failed_at:
            one.refused_at = one.refused_at or now
        else:
            self.problem = problem
        is_given_up = one.refused_at is not None and now - one.refused_at > _REFUSED_SECONDS
        if is_given_up:
            self._remove(one)
        return is_given_up

    def _due(self, now: float) -> Iterator[Delivery]:
        seen = set()
        for one in self.waiting:
            is_first = one.message.subject not in seen
            if is_first and not one.is_sending and one.retry_at <= now:
                yield one
            seen.add(one.message.subject)

    def _remove(self, one: Delivery) -> None:
        self.waiting = [other for other in self.waiting if other is not one]


def read_state(text: str | None) -> TargetState:
    """A row of an unknown form counts as empty."""
    try:
        return TargetState.model_validate_json(text or "{}")
    except ValidationError:
        logger.warning("webhooks: the place of a target cannot be read: it begins at the end")
        return TargetState()
