"""Reports the progress of long runs in their log and tags."""

import threading
import time

import dagster as dg

from lens_pipeline.event_log.tags import PERCENT_TAG, PROGRESS_TAG

# Percent of the whole at each stage's start and end; encodes take nearly all of the time.
_STAGES = (
    ("checking shot", 5, 10),
    ("unpacking shot", 10, 20),
    ("encoding shot", 20, 85),
    ("encoding sound", 85, 90),
    ("scaling", 5, 90),
    ("joining", 92, 92),
    ("verifying", 95, 98),
)

# Seconds between updates of the tags, and of the log.
_TAG_EVERY, _LINE_EVERY = 1.0, 10.0


class ProgressEstimate:
    """Percent of a piece of media work; never goes back. Thread-safe."""

    def __init__(self, shots: int) -> None:
        self._shots = max(shots, 1)
        self._lock = threading.Lock()
        self._shares: dict[str, float] = {}
        self._percent = 0

    def percent(self, stage: str, share: float) -> int:
        """Percent of the whole when `stage`, of one shot or all, is at `share`."""
        with self._lock:
            self._shares[stage] = share
            for name, start, end in _STAGES:
                if stage.startswith(name):
                    parts = self._shots if name.endswith("shot") else 1
                    done = sum(s for key, s in self._shares.items() if key.startswith(name))
                    reached = start + (end - start) * min(done / parts, 1.0)
                    self._percent = max(self._percent, int(reached))
            return self._percent


class RunProgress:
    """Thread-safe."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._tagged = self._said = 0.0

    def show(self, percent: int, stage: str) -> None:
        text = f"{percent} %: {stage}"
        now = time.monotonic()
        with self._lock:
            tag = now - self._tagged >= _TAG_EVERY
            line = now - self._said >= _LINE_EVERY
            self._tagged = now if tag else self._tagged
            self._said = now if line else self._said
        if tag:
            self._set_tags(percent, text)
        if line:
            self._context.log.info("%s", text)

    def finish(self) -> None:
        """Replace the last stage that was shown: the run succeeds."""
        if self._tagged:
            self._set_tags(100, "100 %: done")

    def _set_tags(self, percent: int, text: str) -> None:
        tags = {PROGRESS_TAG: text, PERCENT_TAG: str(percent)}
        self._context.instance.add_run_tags(self._context.run.run_id, tags)
