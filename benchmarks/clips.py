"""Posters' latency while clips are made of the same videos, against the same without clips.

Two stacks take turns: in one, each block ends once its clips are done.
"""

import datetime as dt
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from benchmarks.masters import usual_shots
from benchmarks.running_stack import RunningStack, running_stack
from lens_pipeline.derivatives.registry import CLIP, POSTER

_BLOCKS, _QUICK_BLOCKS = 3, 1
_ROWS, _QUICK_ROWS = 20, 5
_EVERY_SECONDS = 3.0
_FILES = 5


def run(quick: bool = False) -> dict[str, float]:
    """`poster_p95_clips_ratio`: with clips over without."""
    with ExitStack() as opened:
        stacks = {
            name: opened.enter_context(running_stack({"LENS_CLIPS": value}))
            for name, value in (("off", "false"), ("on", "true"))
        }
        shots = usual_shots(_FILES)
        sources = {name: stack.store_files(shots) for name, stack in stacks.items()}
        seconds: dict[str, list[float]] = {"off": [], "on": []}
        for block in range((_QUICK_BLOCKS if quick else _BLOCKS) + 1):
            for name, stack in stacks.items():
                ids = [f"{block}-{i}" for i in range(_QUICK_ROWS if quick else _ROWS)]
                found = _latencies(stack, ids, sources[name])
                # In the first, worker processes start.
                seconds[name] += found if block else []
    ours = {f"poster_p95_clips_{name}_seconds": _p95(values) for name, values in seconds.items()}
    return {"poster_p95_clips_ratio": _p95(seconds["on"]) / _p95(seconds["off"]), **ours}


def _p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def _latencies(stack: RunningStack, ids: Sequence[str], sources: Sequence[str]) -> list[float]:
    started = time.monotonic()
    for index, row_id in enumerate(ids):
        time.sleep(max(0.0, started + index * _EVERY_SECONDS - time.monotonic()))
        stack.add_rows({row_id: sources[index % len(sources)]}, kind="video")
    stack.await_all(ids, POSTER.asset)
    if stack.settings.clips:
        stack.await_all(ids, CLIP.asset)
    stack.await_no_runs()
    finished, made = stack.finished_at(ids), stack.materialized_at(ids, POSTER.asset)
    return [(made[key] - finished[key]) / dt.timedelta(seconds=1) for key in ids]
