"""How long a user waits for a single photo while ten thousand of another user's are made.

The ten thousand are inserted at once. From then on a new user every few seconds inserts one photo;
the workers are busy all the time, so a delay is as many seconds' worth of work. The same singles
on an idle stack come first. The rest of the ten thousand is not waited for.
"""

import time

import numpy as np

from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack

_MANY, _QUICK_MANY = 10_000, 500
_SINGLES, _QUICK_SINGLES = 12, 2
_EVERY_SECONDS = 4.0
_FILES = 20
_EDGE = 1024


def run(quick: bool = False) -> dict[str, float]:
    """`fairness_worst_delay_seconds`: of any single photo beside the many."""
    count = _QUICK_SINGLES if quick else _SINGLES
    with running_stack() as stack:
        sources = stack.store_files(jpegs(_FILES, _EDGE, _EDGE))
        stack.warm_up(sources)
        idle = _delays(stack, "idle", count, sources)
        many = [f"many-{index:05}" for index in range(_QUICK_MANY if quick else _MANY)]
        stack.add_rows({key: sources[i % len(sources)] for i, key in enumerate(many)}, "many")
        started = time.monotonic()
        beside = _delays(stack, "beside", count, sources)
        seconds = time.monotonic() - started
        made = len(stack.materialized_at(many))
        # Stopping the stack ends what is left.
        if made == len(many) and not quick:
            raise RuntimeError("the many were done too early: nothing was measured")
    return {
        "fairness_worst_delay_seconds": max(beside),
        "fairness_p50_delay_seconds": float(np.median(beside)),
        "fairness_idle_p50_seconds": float(np.median(idle)),
        "fairness_idle_worst_seconds": max(idle),
        "fairness_photos_per_second_meanwhile": made / seconds,
    }


def _delays(stack: RunningStack, name: str, count: int, sources: list[str]) -> list[float]:
    """Seconds from row to preview of single photos, each of a user of its own."""
    ids = [f"{name}-{number}" for number in range(count)]
    for number, key in enumerate(ids):
        stack.add_rows({key: sources[number % len(sources)]}, user=f"user-{key}")
        time.sleep(_EVERY_SECONDS)
    stack.await_previews(ids)
    finished, made = stack.finished_at(ids), stack.materialized_at(ids)
    return [(made[key] - finished[key]).total_seconds() for key in ids]
