"""From a finished row to its preview, beside the polling worker that the pipeline replaces.

Both work on the same rows at the same time, so whatever else the machine does slows both. The
poller looks for rows every 15 seconds, takes 20 of them and works on two at a time, with the
product's own fetching and rendering; it stores its previews elsewhere and remembers what it has
done. The pipeline's time ends with the materialization in the event log, the poller's when its file
is stored.
"""

import datetime as dt
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import sqlalchemy as sa

from benchmarks.bare import BareWorker, bare_worker
from benchmarks.photos import jpegs
from benchmarks.running_stack import USER, RunningStack, running_stack

_ROWS, _QUICK_ROWS = 30, 8
_EVERY_SECONDS = 4.0
_POLL_SECONDS = 15.0
_PASS_ROWS = 20
_CONCURRENCY = 2
_PREFIX = "latency-"
_FILES = 10
_EDGE = 1024


class Poller:
    """The plain worker: every pass makes the previews of up to 20 rows, and then it sleeps."""

    def __init__(self, worker: BareWorker, database: sa.Engine, prefix: str) -> None:
        self.latencies: dict[str, float] = {}
        self._prefix = prefix
        self._worker = worker
        self._database = database
        self._stopped = threading.Event()

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Poll in a thread until the end of the block."""
        thread = threading.Thread(target=self._poll, name="poller")
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def await_all(self, ids: Sequence[str]) -> None:
        """Wait until it has made all of them. Raises TimeoutError."""
        deadline = time.monotonic() + 4 * _POLL_SECONDS
        while not self.latencies.keys() >= set(ids):
            if time.monotonic() > deadline:
                raise TimeoutError("the poller does not get done")
            time.sleep(0.1)

    def _poll(self) -> None:
        with ThreadPoolExecutor(_CONCURRENCY) as threads:
            while True:
                list(threads.map(self._make, self._rows()))
                if self._stopped.wait(_POLL_SECONDS):
                    return

    def _rows(self) -> Sequence[sa.Row]:
        values = {"prefix": f"{self._prefix}%", "done": list(self.latencies), "limit": _PASS_ROWS}
        with self._database.connect() as connection:
            return connection.execute(_NEXT, values).all()

    def _make(self, row: sa.Row) -> None:
        self._worker.make(row.id, row.asset_url, f"{USER}/poller/{row.id}.webp")
        self.latencies[row.id] = (dt.datetime.now(dt.UTC) - row.updated_at).total_seconds()


def run(quick: bool = False) -> dict[str, float]:
    """`latency_…_vs_poller`: 0.5 means half the poller's latency at that percentile."""
    rows = _QUICK_ROWS if quick else _ROWS
    with running_stack() as stack:
        sources = stack.store_files(jpegs(_FILES, _EDGE, _EDGE))
        stack.warm_up(sources)
        ids = [f"{_PREFIX}{index}" for index in range(rows)]
        with bare_worker(stack.pipeline, _CONCURRENCY) as worker:
            poller = Poller(worker, stack.application, _PREFIX)
            with poller.polling():
                _add_steadily(stack, ids, sources)
                stack.await_previews(ids)
                poller.await_all(ids)
        ours = _latencies(stack, ids)
    return {
        **_compare(50, ours, poller.latencies),
        **_compare(95, ours, poller.latencies),
        "latency_mean_seconds": statistics.mean(ours.values()),
    }


def _add_steadily(stack: RunningStack, ids: Sequence[str], sources: Sequence[str]) -> None:
    started = time.monotonic()
    for index, row_id in enumerate(ids):
        time.sleep(max(0.0, started + index * _EVERY_SECONDS - time.monotonic()))
        stack.add_rows({row_id: sources[index % len(sources)]})


def _latencies(stack: RunningStack, ids: Sequence[str]) -> dict[str, float]:
    finished, materialized = stack.finished_at(ids), stack.materialized_at(ids)
    return {key: (materialized[key] - finished[key]).total_seconds() for key in ids}


def _compare(
    percentile: int, ours: Mapping[str, float], theirs: Mapping[str, float]
) -> dict[str, float]:
    our_value = float(np.percentile(list(ours.values()), percentile))
    their_value = float(np.percentile(list(theirs.values()), percentile))
    return {
        f"latency_p{percentile}_vs_poller": our_value / their_value,
        f"latency_p{percentile}_seconds": our_value,
        f"latency_p{percentile}_poller_seconds": their_value,
    }


_NEXT = sa.text(
    "SELECT id, asset_url, updated_at FROM generations"
    " WHERE type = 'photo' AND status IN ('success', 'succeeded', 'completed')"
    "   AND id LIKE :prefix AND id <> ALL(:done) ORDER BY updated_at LIMIT :limit"
)
