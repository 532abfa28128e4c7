"""Why what is to be made is not begun."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lens_pipeline.core.locks import queue_id
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import PREVIEWS, QUEUE_TAG, Derivative
from lens_pipeline.derivatives.release import Release
from lens_pipeline.event_log.history import DerivativeStatus, State


class Hold(StrEnum):
    INPUT = "input"
    """What it is made from is not ready."""
    QUEUE = "queue"
    """Its run waits for its turn."""
    WORKER = "worker"
    """Its run waits, and no worker serves its queue."""
    DISABLED = "disabled"
    """LENS_ENABLED is off: nothing begins by itself."""


@dataclass(frozen=True, slots=True)
class Held:
    by: Hold
    place: int | None = None
    """In the queue; 1: it is next."""


def holds(
    pipeline: Pipeline, derivative: Derivative, statuses: Iterable[DerivativeStatus]
) -> dict[str, Held]:
    """By id, of those that are held; at most two queries."""
    found: dict[str, Held] = {}
    runs: dict[str, list[str]] = {}
    for status in statuses:
        if status.waits:
            found[status.id] = Held(Hold.INPUT)
        elif status.state is State.NONE and not pipeline.settings.enabled:
            found[status.id] = Held(Hold.DISABLED)
        elif status.state is State.PROCESSING and status.run_id and not status.progress:
            runs.setdefault(status.run_id, []).append(status.id)
    places = pipeline.runs.places(list(runs), QUEUE_TAG, PREVIEWS) if runs else {}
    if places:
        queue = queue_id(derivative.queue, Release.of(pipeline.settings).id)
        hold = Hold.QUEUE if pipeline.runs.slots().get(queue) else Hold.WORKER
        found |= {
            row_id: Held(hold, place) for run, place in places.items() for row_id in runs[run]
        }
    return found
