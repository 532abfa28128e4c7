"""Reports the progress of long runs in their log and tags."""

import threading
import time
from collections.abc import Callable

import dagster as dg

from lens_pipeline.core.durations import spoken
from lens_pipeline.event_log.history import ReportedProgress, Stage

# Percent of the whole at each stage's start and end, by the first words of what is said of it;
# encodes take nearly all of the time. Stages without a range are parts of others.
_RANGES: dict[str, tuple[Stage, int, int]] = {
    "fetching": (Stage.FETCHING, 0, 0),
    "checking shot": (Stage.CHECKING, 5, 10),
    "unpacking": (Stage.READING, 10, 20),
    "encoding shot": (Stage.ENCODING, 20, 90),
    "encoding sound": (Stage.SOUND, 90, 94),
    "scaling": (Stage.SCALING, 5, 90),
    "joining": (Stage.JOINING, 95, 95),
    "verifying": (Stage.VERIFYING, 95, 98),
    "storing": (Stage.STORING, 98, 98),
}
# From then on the pace of a stage is known well enough, in seconds and as a share of the stage.
_PACE_SECONDS, _PACE_SHARE = 5.0, 0.05

# Seconds between updates of the tags, and of the log.
_TAG_EVERY, _LINE_EVERY = 1.0, 10.0


class ProgressEstimate:
    """Percent and time left of a piece of media work. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._percent = 0.0
        self._stage = Stage.CHECKING
        self._name = ""
        # When the stage's share began to grow, and that share: what is cached takes no time.
        self._began = (0.0, 0.0)
        self._share = 0.0
        self._end: float | None = None

    def at(self, text: str, share: float) -> ReportedProgress:
        """`text` names the stage, `share` is how much of it is done. Percent never goes back."""
        with self._lock:
            name = next((name for name in _RANGES if text.startswith(name)), "")
            self._stage, start, end = _RANGES.get(name, (self._stage, 0, 0))
            exact = start + (end - start) * min(share, 1.0)
            self._percent = max(self._percent, exact)
            if end > start:
                self._expect(name, share, exact, end - start)
            left = 0 if self._end is None else round(self._end - self._clock())
            # Of an end that is over, nothing is said.
            return reported(int(self._percent), self._stage, text, left if left > 0 else None)

    def _expect(self, name: str, share: float, exact: float, size: int) -> None:
        """The end, by the pace of the stage until now."""
        now = self._clock()
        # An encoder takes seconds to begin.
        if name != self._name or share < self._share or share == self._began[1]:
            self._name, self._began = name, (now, share)
        self._share = share
        seconds, gained = now - self._began[0], share - self._began[1]
        if seconds >= _PACE_SECONDS and gained >= _PACE_SHARE:
            self._end = now + (100 - exact) * seconds / (gained * size)


def reported(
    percent: int, stage: Stage, text: str, seconds_left: int | None = None
) -> ReportedProgress:
    """`text`: the stage in words."""
    left = f", about {spoken(seconds_left)} left" if seconds_left else ""
    return ReportedProgress(f"{percent} %: {text}{left}", percent, stage, seconds_left)


class RunProgress:
    """Thread-safe."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._tagged = self._said = 0.0

    def show(self, progress: ReportedProgress) -> None:
        now = time.monotonic()
        with self._lock:
            tag = now - self._tagged >= _TAG_EVERY
            line = now - self._said >= _LINE_EVERY
            self._tagged = now if tag else self._tagged
            self._said = now if line else self._said
        if tag:
            self._set_tags(progress)
        if line:
            self._context.log.info("%s", progress.text)

    def finish(self) -> None:
        """Replace the last stage that was shown: the run succeeds."""
        if self._tagged:
            self._set_tags(reported(100, Stage.STORING, "done"))

    def _set_tags(self, progress: ReportedProgress) -> None:
        self._context.instance.add_run_tags(self._context.run.run_id, progress.tags)
