"""What a start takes, and how much memory the stack, idle and after and during runs.

Counted is PSS, in which a page shared by n processes counts 1/n in each: its sum over all processes
is what the stack takes, PostgreSQL and Valkey included. What a run adds is the highest sum while it
renders over the sum of the stack that has not run anything yet, so the rendering processes that the
first run starts count as well. `start_cpu_seconds` is what all processes have used when the stack
says that it is ready, and `busy_mib` its memory after everything, 80 common photos included.
"""

import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.usage import cpu_seconds

_SIZE = (6000, 4000)
_PHOTOS, _QUICK_PHOTOS = 20, 4
_FILES = 4
_SMALL, _SMALL_PHOTOS, _QUICK_SMALL_PHOTOS = 1024, 80, 8
_IDLE_SECONDS, _QUICK_IDLE_SECONDS = 15.0, 3.0
_SAMPLE_SECONDS = 0.1
_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


def run(quick: bool = False) -> dict[str, float]:
    """In MiB; no ratio, since there is nothing to compare with."""
    idle_seconds = _QUICK_IDLE_SECONDS if quick else _IDLE_SECONDS
    with running_stack() as stack:
        start = cpu_seconds(stack.processes()[0])
        sources = stack.store_files(jpegs(_FILES, *_SIZE))
        time.sleep(idle_seconds)  # what starting needed is given back
        idle = _idle_mib(stack, idle_seconds)
        count = _QUICK_PHOTOS if quick else _PHOTOS
        ids = [f"large-{index}" for index in range(count)]
        with _sampling(stack) as samples:
            stack.add_rows({key: sources[i % len(sources)] for i, key in enumerate(ids)})
            stack.await_previews(ids)
            stack.await_no_runs()
        after = _idle_mib(stack, idle_seconds)
        photos = _QUICK_SMALL_PHOTOS if quick else _SMALL_PHOTOS
        (small,) = stack.store_files(jpegs(1, _SMALL, _SMALL))
        ids = [f"small-{index}" for index in range(photos)]
        stack.add_rows(dict.fromkeys(ids, small))
        stack.await_previews(ids)
        stack.await_no_runs()
        busy = _idle_mib(stack, idle_seconds)
    return {
        "start_cpu_seconds": start,
        "idle_mib": idle,
        "busy_mib": busy,
        "stack_idle_pss_mib": idle,
        "stack_idle_after_run_pss_mib": after,
        "run_peak_pss_mib": max(samples) - idle,
    }


def _idle_mib(stack: RunningStack, seconds: float) -> float:
    with _sampling(stack) as samples:
        time.sleep(seconds)
    return statistics.median(samples)


@contextmanager
def _sampling(stack: RunningStack) -> Iterator[list[float]]:
    """Sample the stack's memory, in MiB, until the end of the block."""
    samples: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while True:
            samples.append(sum(map(_pss_mib, stack.processes())))
            if ended.wait(_SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _pss_mib(process: psutil.Process) -> float:
    try:
        found = _PSS.search(Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii"))
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
