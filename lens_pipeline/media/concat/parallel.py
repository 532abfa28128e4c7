"""Runs tasks side by side; the first failure ends the others."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

from lens_pipeline.media.errors import Cancelled
from lens_pipeline.media.ffmpeg.run import Work

Result = TypeVar("Result")


def run_all(tasks: Sequence[Callable[[Work], Result]], work: Work) -> list[Result]:
    """Results in order; one task runs per core. Raises what the first failed task raised."""
    stop = threading.Event()
    lock = threading.Lock()

    def report(stage: str, share: float, speed: float | None) -> None:
        with lock:
            work.report(stage, share, speed)

    shared = replace(work, cancelled=lambda: stop.is_set() or work.cancelled(), report=report)
    with ThreadPoolExecutor(min(len(tasks), os.cpu_count() or 1) or 1) as pool:
        futures = [pool.submit(task, shared) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Leaving the pool waits for running tasks.
            stop.set()
            for future in futures:
                future.cancel()
    failures = [future.exception() for future in futures if not future.cancelled()]
    for failure in sorted(filter(None, failures), key=lambda each: isinstance(each, Cancelled)):
        raise failure
    return [future.result() for future in futures]
