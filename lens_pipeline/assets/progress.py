"""How far a long run is: in its log, and as a tag that commands and pages read."""

import threading
import time

import dagster as dg

from lens_pipeline.status import PROGRESS_TAG

# Seconds between updates of the tag and between lines of the log.
_TAG_EVERY = 1.0
_LINE_EVERY = 10.0


class RunProgress:
    """Tells how far a run is; from any thread."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._tagged = 0.0
        self._said = 0.0

    def show(self, text: str) -> None:
        """`text` is what is done now, and how much of that is over."""
        now = time.monotonic()
        with self._lock:
            tag = now - self._tagged >= _TAG_EVERY
            line = now - self._said >= _LINE_EVERY
            self._tagged = now if tag else self._tagged
            self._said = now if line else self._said
        if tag:
            self._context.instance.add_run_tags(self._context.run.run_id, {PROGRESS_TAG: text})
        if line:
            self._context.log.info("%s", text)
