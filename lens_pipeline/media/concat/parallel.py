"""Runs tasks side by side; the first failure ends the others."""

import operator
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import TypeVar

from lens_pipeline.media.errors import Cancelled
from lens_pipeline.media.ffmpeg.run import Work

Result = TypeVar("Result")


def run_all(
    tasks: Sequence[Callable[[Work], Result]], work: Work, weights: Sequence[float] | None = None
) -> list[Result]:
    """Results in order; one task runs per core. Raises what the first failed task raised.

    The share that `work` reports is that of all tasks; `weights`: how long each takes, compared
    with the others.
    """
    stop = threading.Event()
    lock = threading.Lock()
    weight = weights or [1.0] * len(tasks)
    shares = [0.0] * len(tasks)

    def report(number: int, stage: str, share: float) -> None:
        with lock:
            # A task may have several stages.
            shares[number] = max(shares[number], share)
            done = sum(map(operator.mul, shares, weight)) / (sum(weight) or 1.0)
            work.report(stage, done)

    def run(number: int) -> Result:
        own = replace(shared, report=partial(report, number))
        result = tasks[number](own)
        shares[number] = 1.0
        return result

    shared = replace(work, cancelled=lambda: stop.is_set() or work.cancelled())
    with ThreadPoolExecutor(min(len(tasks), os.cpu_count() or 1) or 1) as pool:
        futures = [pool.submit(run, number) for number in range(len(tasks))]
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
