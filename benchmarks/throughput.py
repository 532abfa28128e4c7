"""How much of a bare loop's throughput is left once Dagster runs it.

Rows are inserted at once; the pipeline's time ends when the event log has a materialization of the
last original, so it includes noticing the rows, planning, queueing and recording. The loop gets the
list of files for nothing, and has the machine for itself: the stack is paused meanwhile. Both
download the same files, store each original and its preview in the same store, and render with the
same code in the same number of processes, all started before; their rounds take turns.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.bare import BareWorker, bare_worker
from benchmarks.photos import jpegs, served
from benchmarks.running_stack import USER, RunningStack, running_stack

_PHOTOS, _QUICK_PHOTOS = 400, 60
_ROUNDS, _QUICK_ROUNDS = 3, 1
# Different files; the rows share them, as a page cache would serve them anyway.
_FILES = 40
_EDGE = 1024


@dataclass(slots=True)
class _Seconds:
    pipeline: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)


def run(quick: bool = False) -> dict[str, float]:
    """`throughput_vs_loop`: 0.75 means 75 photos by the pipeline while the loop makes 100."""
    photos = _QUICK_PHOTOS if quick else _PHOTOS
    seconds = _Seconds()
    files = jpegs(_FILES, _EDGE, _EDGE)
    variables = {"LENS_FETCH_ALLOW_HOSTS": "127.0.0.1"}
    with served(files) as sources, running_stack(variables) as stack:
        stack.warm_up(sources)
        workers = stack.settings.preview_concurrency * stack.settings.threads
        with bare_worker(stack.pipeline, workers) as worker:
            time_loop(worker, workers, "warm", sources)
            for number in range(_QUICK_ROUNDS if quick else _ROUNDS):
                wanted = [sources[index % len(sources)] for index in range(photos)]
                seconds.pipeline.append(time_pipeline(stack, f"row-{number}", wanted))
                with stack.paused():
                    seconds.loop.append(time_loop(worker, workers, f"loop-{number}", wanted))
    pipeline, loop = statistics.median(seconds.pipeline), statistics.median(seconds.loop)
    return {
        "throughput_vs_loop": loop / pipeline,
        "throughput_photos_per_second": photos / pipeline,
        "throughput_loop_photos_per_second": photos / loop,
    }


def time_pipeline(stack: RunningStack, prefix: str, sources: Sequence[str]) -> float:
    """Seconds from inserting a row for each of `sources` until previews and originals are made."""
    ids = [f"{prefix}-{index}" for index in range(len(sources))]
    started = time.perf_counter()
    stack.add_rows(dict(zip(ids, sources, strict=True)))
    stack.await_previews(ids)
    stack.await_originals(ids)
    seconds = time.perf_counter() - started
    stack.await_no_runs()
    return seconds


def time_loop(worker: BareWorker, threads: int, prefix: str, sources: Sequence[str]) -> float:
    """Seconds to make the previews of `sources` on so many threads."""

    def make(index: int) -> None:
        name = f"{prefix}-{index}"
        worker.make(name, sources[index], f"{USER}/loop/{name}.webp")

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(make, range(len(sources))))
    return time.perf_counter() - started
