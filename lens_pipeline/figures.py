"""Counts and histograms of what the event log holds: the same in every process, and after restarts.

The past is read once, by pages, in the background; what comes after is counted as it comes.
"""

import bisect
import json
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.derivatives.registry import assets
from lens_pipeline.event_log.changes import Position
from lens_pipeline.status.figures import FigureLog, Made, Missed

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Upper bounds in seconds: a preview takes parts of one, a master minutes, a backlog hours.
LATENCY_BOUNDS = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 7200, 86400)
STAGE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
_PAGE = 100
# Between pages: the past must not keep requests waiting.
_PAUSE_SECONDS = 0.02
_AGAIN_SECONDS = 2.0


class Histogram:
    """How many values lie below each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self.sum += value

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add another, as `dump` gives it; if its bounds are others, each value as its bound."""
        for bound, count in zip((*other["bounds"], float("inf")), other["counts"], strict=True):
            self._counts[bisect.bisect_left(self._bounds, bound)] += count
        self.sum += other["sum"]

    def dump(self) -> dict[str, Any]:
        return {"bounds": list(self._bounds), "counts": self._counts, "sum": self.sum}

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound with the number of values up to it, as Prometheus wants them."""
        total = 0
        found = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
        return found


@dataclass
class Tally:
    """What was counted."""

    made: Counter[str] = field(default_factory=Counter)
    """By asset."""
    missed: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    """By asset, class of error, and whether that is permanent."""
    latency: defaultdict[str, Histogram] = field(
        default_factory=lambda: defaultdict(lambda: Histogram(LATENCY_BOUNDS))
    )
    """By asset."""
    stages: defaultdict[tuple[str, str], Histogram] = field(
        default_factory=lambda: defaultdict(lambda: Histogram(STAGE_BOUNDS))
    )
    """By asset and stage."""

    def add(self, made: Iterable[Made], missed: Iterable[Missed]) -> None:
        for one in made:
            self.made[one.asset] += 1
            if one.latency is not None:
                self.latency[one.asset].add(one.latency)
            for stage, seconds in one.stages:
                self.stages[one.asset, stage].add(seconds)
        for miss in missed:
            self.missed[miss.asset, miss.error_class, miss.permanent] += 1

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add another, as `dump` gives it."""
        self.made.update(other["made"])
        for asset, error_class, permanent, number in other["missed"]:
            self.missed[asset, error_class, permanent] += number
        for asset, histogram in other["latency"].items():
            self.latency[asset].merge(histogram)
        for asset, stage, histogram in other["stages"]:
            self.stages[asset, stage].merge(histogram)

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON can have it."""
        return {
            "made": dict(self.made),
            "missed": [[*what, number] for what, number in self.missed.items()],
            "latency": {asset: one.dump() for asset, one in self.latency.items()},
            "stages": [[*what, one.dump()] for what, one in self.stages.items()],
        }

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The tally whose `dump` that is, in JSON; an empty one of None."""
        tally = cls()
        if text is not None:
            tally.merge(json.loads(text))
        return tally


class Figures:
    """The tally of one process."""

    def __init__(self, log: FigureLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._tally = Tally()
        self._is_loaded = False
        self._stop = threading.Event()
        self._loading = 0

    def begin(self, position: Position) -> None:
        """Count anew: the past up to this position, in the background; `count` has the rest."""
        with self._lock:
            self._tally = Tally()
            self._is_loaded = False
            self._loading += 1
            arguments = (position, self._loading)
        threading.Thread(
            target=self._load, args=arguments, name="lens-figures", daemon=True
        ).start()

    def count(self, materialized: Sequence[int], failed: Sequence[int]) -> None:
        """Count these events. Raises SQLAlchemyError: none of them is counted."""
        if not materialized and not failed:
            return
        made, missed = self._log.made(materialized), self._log.missed(failed)
        with self._lock:
            self._tally.add(made, missed)

    @contextmanager
    def tally(self) -> Iterator[tuple[Tally, bool]]:
        """What was counted, and whether that is all of the past; nothing changes meanwhile."""
        with self._lock:
            yield self._tally, self._is_loaded

    def stop(self) -> None:
        self._stop.set()

    def _load(self, position: Position, loading: int) -> None:
        past = None
        while past is None and self._loading == loading and not self._stop.is_set():
            past = self._read_past(position, loading)
        if past is None:
            return
        with self._lock:
            if self._loading == loading:
                self._tally.merge(past.dump())
                self._is_loaded = True

    def _read_past(self, position: Position, loading: int) -> Tally | None:
        """What happened up to `position`, pruned events included; None if that is not known.

        What is pruned while it is read might be counted never or twice: it is read once more.
        """
        before = self._pruned()
        past = Tally.parse(before)
        for asset, until in zip(assets(), position.assets, strict=True):
            for made, missed in self._past(asset, until):
                if self._loading != loading:
                    return None
                past.add(made, missed)
        return past if self._pruned() == before and not self._stop.is_set() else None

    def _pruned(self) -> str | None:
        """What was counted of events that are gone; waits while there is no database."""
        while not self._stop.is_set():
            try:
                return self._log.pruned()
            except SQLAlchemyError as error:
                self._wait(error)
        return None

    def _past(self, asset: str, until: int) -> Iterator[tuple[list[Made], list[Missed]]]:
        for made in self._pages(self._log.made_before, asset, until):
            yield made, []
        for missed in self._pages(self._log.missed_before, asset, until):
            yield [], missed

    def _pages(
        self,
        read: Callable[[str, int, int, int], tuple[list[T], int | None]],
        asset: str,
        until: int,
    ) -> Iterator[list[T]]:
        """Every page that `read` has; waits while there is no database."""
        after: int | None = 0
        while after is not None and not self._stop.wait(_PAUSE_SECONDS):
            try:
                page, after = read(asset, after, until, _PAGE)
            except SQLAlchemyError as error:
                self._wait(error)
                continue
            yield page

    def _wait(self, error: SQLAlchemyError) -> None:
        logger.info("the past is read on later: %s", str(error).splitlines()[0])
        self._stop.wait(_AGAIN_SECONDS)
