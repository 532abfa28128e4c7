"""What a photo costs besides its rendering, part by part, alone and in batches of 20.

The whole is measured on a running stack, whose rendering is a sleep of no time, less what the same
stack does at rest. Its parts are the product's own calls, made from here one after the other; for
these the daemon, code server and HTTP app are stopped. Processor time, transactions and write-ahead
log are what the system and PostgreSQL themselves count, over all processes.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import dagster as dg

from benchmarks.bare import bare_worker
from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.scale import SETTINGS, make_rows, sleeping_workers
from benchmarks.usage import Usage, usage
from lens_pipeline.catalog.rows import Kind, Row
from lens_pipeline.definitions import defs
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.engine.dagster_storage.pool import shared_pool
from lens_pipeline.engine.events import record_materializations
from lens_pipeline.engine.run_queue import create_run, enqueue
from lens_pipeline.engine.run_requests import Batch
from lens_pipeline.event_log.tags import ORIGIN_TAG

_BATCH = 20
_SIZES = {"alone": 1, "batch": _BATCH}
_PHOTOS, _QUICK_PHOTOS = {"alone": 80, "batch": 800}, {"alone": 10, "batch": 100}
_CALLS, _QUICK_CALLS = 60, 5
_RUNS, _QUICK_RUNS = 40, 4
_IDLE_SECONDS, _QUICK_IDLE_SECONDS = 15.0, 5.0
_EDGE = 1024
_FILES = 8
_PLANNERS = ("daemon", "code", "api", "web", "worker-masters")


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of one photo."""

    cpu_ms: float
    """Of all processes but PostgreSQL's."""
    postgres_ms: float
    transactions: float
    wal_kib: float

    def figures(self, name: str) -> dict[str, float]:
        return {
            f"cost_{name}_cpu_ms": self.cpu_ms,
            f"cost_{name}_postgres_ms": self.postgres_ms,
            f"cost_{name}_transactions": self.transactions,
            f"cost_{name}_wal_kib": self.wal_kib,
        }


def run(quick: bool = False) -> dict[str, float]:
    """Of one photo: milliseconds of a processor, transactions, KiB of write-ahead log."""
    figures: dict[str, float] = {}
    for name, size in _SIZES.items():
        with running_stack({**SETTINGS, "LENS_BATCH_SIZE": str(size)}) as stack:
            figures |= _of_stack(stack, name, size, quick)
    return figures


def _of_stack(stack: RunningStack, name: str, size: int, quick: bool) -> dict[str, float]:
    files = jpegs(_FILES, _EDGE, _EDGE)
    sources = stack.store_files(files)
    stack.stop_program("worker-previews")
    photos = (_QUICK_PHOTOS if quick else _PHOTOS)[name]
    runs = _QUICK_RUNS if quick else _RUNS
    with sleeping_workers(stack, 1, 0.0, files[0]) as workers:
        make_rows(stack, "warm", 3 * size, sources)
        before = usage(stack, workers)
        time.sleep(_QUICK_IDLE_SECONDS if quick else _IDLE_SECONDS)
        idle = usage(stack, workers).since(before)
        before = usage(stack, workers)
        ids = make_rows(stack, "row", photos, sources)
        whole = usage(stack, workers).since(before).without(idle)
        with _instance(stack) as parts:
            # Of what is up to date: they begin, find nothing to do, and end.
            created = [parts.create(_some(ids, number, size)) for number in range(runs)]
            before = usage(stack, workers)
            for one in created:
                enqueue(parts.instance, one)
            stack.await_no_runs()
            empty = usage(stack, workers).since(before).without(idle)
    for program in _PLANNERS:
        stack.stop_program(program)
    with _instance(stack) as parts:
        figures = _of_parts(parts, stack, ids, name, size, _QUICK_CALLS if quick else _CALLS)
    figures |= _cost(whole, photos).figures(f"whole_{name}")
    figures |= _cost(empty, runs * size).figures(f"run_{name}")
    for part, seconds in whole.cpu.items():
        figures[f"cost_whole_{name}_{part}_ms"] = seconds / photos * 1000
    for part, seconds in idle.cpu.items():
        figures[f"cost_idle_{part}_cores"] = seconds / idle.seconds
    figures["cost_idle_transactions_a_second"] = idle.transactions / idle.seconds
    return figures


def _cost(used: Usage, photos: int, own_cpu: float = 0.0) -> _Cost:
    others = sum(seconds for part, seconds in used.cpu.items() if part != "postgres")
    return _Cost(
        (others + own_cpu) / photos * 1000,
        used.cpu["postgres"] / photos * 1000,
        used.transactions / photos,
        used.wal_bytes / 1024 / photos,
    )


class _Parts:
    """The product's own calls, as its processes make them."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self._job = defs().get_repository_def().get_job(PREVIEW.job)

    def create(self, keys: Sequence[str]) -> dg.DagsterRun:
        """A run with its planned events."""
        # With an origin: what is up to date is not made again.
        tags = {**Batch(tuple(keys)).tags(), ORIGIN_TAG: "once"}
        return create_run(self.instance, self._job, tags)

    def record(self, keys: Sequence[str]) -> None:
        """Materializations like the last one."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(PREVIEW.asset))
        last = event.asset_materialization if event else None
        assert last is not None
        record_materializations(self.instance, [last._replace(partition=key) for key in keys])


def _some(ids: Sequence[str], number: int, size: int) -> Sequence[str]:
    """Neighbours in the partition set, others for each number."""
    start = number * size % (len(ids) - size + 1) // size * size
    return ids[start : start + size]


@contextmanager
def _instance(stack: RunningStack) -> Iterator[_Parts]:
    """Dagster's instance, which follows the environment of this process."""
    with (
        patch.dict(os.environ, stack.environment),
        dg.DagsterInstance.get() as instance,
    ):
        yield _Parts(instance)


def _of_parts(
    parts: _Parts, stack: RunningStack, ids: Sequence[str], name: str, size: int, calls: int
) -> dict[str, float]:
    pipeline = stack.pipeline
    sources = list(pipeline.catalog.finished(Kind.PHOTO, ids[:size]).values())
    rows: list[Row] = usable(sources)
    figures: dict[str, float] = {}
    called: dict[str, Callable[[Sequence[str]], object]] = {
        "plan": parts.create,
        "record": parts.record,
        "status": lambda _: assess(pipeline, PREVIEW, rows),
    }
    for part, call in called.items():
        figures |= _called(stack, call, ids, size, calls).figures(f"{part}_{name}")
    with bare_worker(pipeline, 1) as worker:
        source = stack.store_files(jpegs(1, _EDGE, _EDGE))[0]
        picture = b"0" * 40_000

        def transfer(keys: Sequence[str]) -> None:
            for key in keys:
                file = worker.scratch / key
                worker.fetcher.fetch(source, file)
                file.unlink()
                worker.store.write(f"bench/cost/{key}.webp", picture, content_type="image/webp")

        figures |= _called(stack, transfer, ids, size, calls).figures(f"transfer_{name}")
    return figures


def _called(
    stack: RunningStack,
    call: Callable[[Sequence[str]], object],
    ids: Sequence[str],
    size: int,
    calls: int,
) -> _Cost:
    """What a photo costs if `call` is made for so many of them at a time."""
    call(_some(ids, 0, size))
    _end_sessions(stack)
    before, own = usage(stack), time.process_time()
    for number in range(calls):
        call(_some(ids, number, size))
    own = time.process_time() - own
    _end_sessions(stack)
    return _cost(usage(stack).since(before), calls * size, own)


def _end_sessions(stack: RunningStack) -> None:
    """Ours: one that rests tells what it has done ten seconds later only, one that ends at once."""
    shared_pool(stack.pipeline.endpoints.dagster_url).dispose()
    stack.pipeline.log.close()
    stack.pipeline.catalog.close()
