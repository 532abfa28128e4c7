"""Which problems were told, and which are due to be told. No I/O."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, Field, ValidationError

logger = logging.getLogger(__name__)
HOLD_SECONDS = 120.0  # longer than a restart of a service
_RECOVERY_SECONDS = 60.0
_REMINDER_SECONDS = 6 * 3600.0
_HOUR_SECONDS = 3600.0
_MOST_AN_HOUR = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """`text` is one line; if `is_held`, it is told only after `HOLD_SECONDS`."""

    key: str
    text: str
    link: str | None = None
    is_held: bool = False


class Word(StrEnum):
    """The most urgent comes first."""

    BEGAN = "began"
    GOES_ON = "goes on"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Notice:
    """`since` is in seconds since the epoch."""

    word: Word
    problem: Problem
    since: float


class _Entry(BaseModel):
    """Times are in seconds since the epoch."""

    text: str
    since: float
    told_at: float | None = None
    gone_since: float | None = None


class AlertState(BaseModel):
    """The stored row; fields of earlier versions are ignored. For one thread."""

    problems: dict[str, _Entry] = Field(default_factory=dict)
    sent: list[float] = Field(default_factory=list)
    """Times of the messages of the last hour."""

    def restore(self, text: str | None) -> None:
        """Add what was stored; a row of an unknown form counts as empty."""
        try:
            stored = AlertState.model_validate_json(text or "{}")
        except ValidationError:
            logger.warning("alerts: what was told before cannot be read, and is told again")
            return
        self.problems |= stored.problems
        self.sent = stored.sent

    @property
    def open(self) -> int:
        return sum(entry.told_at is not None for entry in self.problems.values())

    def due(
        self, problems: Sequence[Problem], unknown: Collection[str], now: float
    ) -> list[Notice]:
        """What to tell in one message, within the hourly limit; `unknown` problems stay."""
        found = [self._lasting(problem, now) for problem in problems]
        present = {problem.key for problem in problems}
        found += [self._gone(key, now) for key in self.problems.keys() - present - {*unknown}]
        self.sent = [at for at in self.sent if 0 <= now - at < _HOUR_SECONDS]
        is_allowed = len(self.sent) < _MOST_AN_HOUR
        return [notice for notice in found if notice and is_allowed]

    def tell(self, notices: Sequence[Notice], now: float) -> None:
        """Note that a message has arrived."""
        self.sent.append(now)
        for notice in notices:
            if notice.word is Word.OVER:
                del self.problems[notice.problem.key]
            else:
                self.problems[notice.problem.key].told_at = now

    def _lasting(self, problem: Problem, now: float) -> Notice | None:
        entry = self.problems.setdefault(problem.key, _Entry(text=problem.text, since=now))
        entry.text, entry.gone_since = problem.text, None
        if entry.told_at is None:
            word, is_due = Word.BEGAN, not problem.is_held or now - entry.since >= HOLD_SECONDS
        else:
            word, is_due = Word.GOES_ON, now - entry.told_at >= _REMINDER_SECONDS
        return Notice(word, problem, entry.since) if is_due else None

    def _gone(self, key: str, now: float) -> Notice | None:
        entry = self.problems[key]
        if entry.told_at is None:
            del self.problems[key]
            return None
        if entry.gone_since is None:
            entry.gone_since = now
        is_over = now - entry.gone_since >= _RECOVERY_SECONDS
        return Notice(Word.OVER, Problem(key, entry.text), entry.since) if is_over else None
