"""Which problems people were told of, and what they are to be told next."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

_HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How soon and how often people are told; seconds."""

    hold: float = 120.0
    """So long a service must be gone: restarts wake nobody."""
    settle: float = 60.0
    """So long a problem must be over before that is told."""
    again: float = 6 * _HOUR_SECONDS
    """After which a problem that goes on is told again."""
    more: float = 300.0
    """Between two messages about one problem that grows."""
    apart: float = 30.0
    """Between any two messages."""
    most_an_hour: int = 12


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that somebody has to mend."""

    key: str
    text: str
    """What is wrong, in one line."""
    link: str | None = None
    """Where to look."""
    is_held: bool = False
    """Whether it is told only once it has lasted."""
    marks: frozenset[str] = frozenset()
    """What it is about, if that is many things: it is told again when there are more of them."""


class Word(StrEnum):
    """What a notice says of its problem."""

    BEGAN = "began"
    GREW = "grew"
    GOES_ON = "goes on"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell."""

    word: Word
    problem: Problem
    since: float
    """When the problem began, seconds since the epoch."""
    new: frozenset[str] = frozenset()
    """Those of its marks that were not told of."""


@dataclass
class _Entry:
    text: str
    since: float
    told_at: float | None = None
    gone_since: float | None = None
    marks: list[str] = field(default_factory=list)
    """Those that were told of."""


class Ledger:
    """Remembers problems by their keys. Not safe to share between threads.

    Nothing counts as told until `tell` says so: what could not be sent is due again.
    """

    def __init__(self, rhythm: Rhythm, text: str | None = None) -> None:
        """`text`: what `dump` gave, also of an earlier version; what is not understood is left."""
        self._rhythm = rhythm
        self._entries: dict[str, _Entry] = {}
        self._problems: dict[str, Problem] = {}
        self._sent: list[float] = []
        if text:
            known = json.loads(text)
            self._entries = {key: _Entry(**entry) for key, entry in known["problems"].items()}
            self._sent = list(known["sent"])

    def dump(self) -> str:
        """What outlives the process: problems that were told, and when messages were sent."""
        told = {key: asdict(e) for key, e in self._entries.items() if e.told_at is not None}
        return json.dumps({"problems": told, "sent": self._sent})

    @property
    def open(self) -> dict[str, str]:
        """What people were told of and not yet that it is over."""
        return {key: e.text for key, e in self._entries.items() if e.told_at is not None}

    def see(self, problems: Sequence[Problem], unknown: Collection[str], now: float) -> None:
        """Take note of all problems there are now. Those of the `unknown` keys stay as they are."""
        self._problems = {problem.key: problem for problem in problems}
        for key, problem in self._problems.items():
            entry = self._entries.setdefault(key, _Entry(problem.text, now))
            entry.text, entry.gone_since = problem.text, None
            entry.marks = [mark for mark in entry.marks if mark in problem.marks]
        for key in self._entries.keys() - self._problems.keys() - set(unknown):
            entry = self._entries[key]
            if entry.told_at is None:
                del self._entries[key]
            elif entry.gone_since is None:
                entry.gone_since = now

    def due(self, now: float) -> list[Notice]:
        """What is to be told now, in one message; nothing if there was one just now."""
        self._sent = [at for at in self._sent if 0 <= now - at < _HOUR_SECONDS]
        if len(self._sent) >= self._rhythm.most_an_hour:
            return []
        if self._sent and now - self._sent[-1] < self._rhythm.apart:
            return []
        found = (self._notice(key, entry, now) for key, entry in self._entries.items())
        return [notice for notice in found if notice]

    def tell(self, notices: Sequence[Notice], now: float) -> None:
        """People have been told, of what may have changed while the message was under way."""
        self._sent.append(now)
        for notice in notices:
            problem = notice.problem
            if notice.word is Word.OVER:
                self._entries.pop(problem.key, None)
                continue
            ended = _Entry(problem.text, notice.since, gone_since=now)
            entry = self._entries.setdefault(problem.key, ended)
            entry.told_at = now
            entry.marks = sorted(problem.marks)

    def adopt(self, other: "Ledger") -> None:
        """Take over what `other` has told of, unless it is known here."""
        for key, entry in other._entries.items():
            if entry.told_at is not None:
                self._entries.setdefault(key, entry)

    def forget(self, keys: Collection[str]) -> None:
        """Leave these problems, and those nobody was told of, to somebody else."""
        for key, entry in list(self._entries.items()):
            if key in keys or entry.told_at is None:
                del self._entries[key]

    def _notice(self, key: str, entry: _Entry, now: float) -> Notice | None:
        if entry.gone_since is not None:
            if now - entry.gone_since < self._rhythm.settle:
                return None
            return Notice(Word.OVER, Problem(key, entry.text), entry.since)
        problem = self._problems.get(key)
        if problem is None:
            return None
        if entry.told_at is None:
            if problem.is_held and now - entry.since < self._rhythm.hold:
                return None
            return Notice(Word.BEGAN, problem, entry.since, problem.marks)
        new = problem.marks - set(entry.marks)
        if new and now - entry.told_at >= self._rhythm.more:
            return Notice(Word.GREW, problem, entry.since, new)
        if now - entry.told_at >= self._rhythm.again:
            return Notice(Word.GOES_ON, problem, entry.since)
        return None
