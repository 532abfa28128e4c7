"""How throughput grows with the number of worker processes, and what fills up first.

Each worker stands for a machine of its own that renders one photo at a time: its rendering is a
sleep, which costs this machine nothing. All else is real: `lens up`, and so many processes `lens
worker` of concurrency 1, which fetch, store and record. That is done on this machine, too, where
workers elsewhere would do it on theirs; the processor time of every part tells them apart.

The sleep is the processor time that a PNG of 3840x2160 takes here, 0.14 s, so that eight workers
leave more than one of two cores free. With that of a JPEG of 1024x1024, 0.06 s, they would fill
both, and the measurement would be of this machine, as it partly is with sixteen. The sources that
are fetched are those JPEGs for the same reason.

Rows are inserted at once, and the numbers of workers take turns. A rate is that of the middle of
the rows, without the first and the last runs, where some workers have nothing to do.
"""

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import sqlalchemy as sa
from PIL import Image

from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack, without_settings
from benchmarks.usage import Usage, cpu_seconds, usage
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.core.locks import queue_id
from lens_pipeline.derivatives.registry import PREVIEWS, WEBP_EFFORT
from lens_pipeline.derivatives.release import Release
from lens_pipeline.media.models import PreviewSpec
from lens_pipeline.media.sandbox.pool import Sandbox

_WORKERS, _QUICK_WORKERS = (1, 2, 4, 8, 16), (1, 2)
_ROUNDS, _QUICK_ROUNDS = 2, 1
# Of every worker.
_RUNS, _QUICK_RUNS = 4, 2
_SOURCE, _RENDERED = (1024, 1024), (3840, 2160)
_FILES = 4
_RENDERS = 4
_MIDDLE = (0.15, 0.85)
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.2
# Of a worker process that stands for a core.
SETTINGS = {
    "LENS_THREADS": "1",
    "LENS_PREVIEW_CONCURRENCY": "1",
    # It would disturb some rounds and not others.
    "LENS_BACKFILL_CRON": "0 0 29 2 *",
}
# What is there once for a site, however many workers there are.
_ONCE = ("daemon", "code", "broker", "postgres", "api")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What so many workers did."""

    rate: float
    """Photos a second."""
    photos: int
    used: Usage
    connections: int
    """Of PostgreSQL, at the most."""


def run(quick: bool = False) -> dict[str, float]:
    """`scale_8_workers`: 0.85 means that eight workers make 6.8 times as many as one."""
    numbers = _QUICK_WORKERS if quick else _WORKERS
    measured: dict[int, list[_Measured]] = {number: [] for number in numbers}
    with running_stack(SETTINGS) as stack:
        files = jpegs(_FILES, *_SOURCE)
        sources = stack.store_files(files)
        stack.stop_program("worker-previews")
        seconds = _render_seconds(stack, [_png(file) for file in jpegs(_FILES, *_RENDERED)])
        runs = _QUICK_RUNS if quick else _RUNS
        for turn in range(_QUICK_ROUNDS if quick else _ROUNDS):
            for number in numbers:
                rows = number * runs * stack.settings.batch_size
                with sleeping_workers(stack, number, seconds, files[0]) as workers:
                    found = _measure(stack, f"{turn}-{number}", rows, number, sources, workers)
                measured[number].append(found)
    return {"scale_render_seconds": seconds, **_figures(measured)}


def _figures(measured: Mapping[int, Sequence[_Measured]]) -> dict[str, float]:
    rates = {n: statistics.median(m.rate for m in found) for n, found in measured.items()}
    figures = {f"scale_{n}_photos_per_second": rate for n, rate in rates.items()}
    figures |= {f"scale_{n}_workers": rate / (n * rates[1]) for n, rate in rates.items() if n > 1}
    for n, found in measured.items():
        figures[f"scale_{n}_connections"] = max(m.connections for m in found)
    most = measured[max(measured)]
    seconds, photos = sum(m.used.seconds for m in most), sum(m.photos for m in most)
    for part in (*_ONCE, "workers"):
        used = sum(m.used.cpu[part] for m in most)
        figures[f"scale_most_{part}_cores"] = used / seconds
        figures[f"scale_most_{part}_ms_a_photo"] = used / photos * 1000
    return figures


def _png(jpeg: Path) -> Path:
    png = jpeg.with_suffix(".png")
    if not png.exists():
        Image.open(jpeg).save(png, compress_level=3)
    return png


def _render_seconds(stack: RunningStack, files: Sequence[Path]) -> float:
    """Processor time that the product takes for rendering a photo, while the stack rests."""
    settings = stack.settings
    spec = PreviewSpec(
        settings.preview_edge, settings.preview_quality, WEBP_EFFORT, settings.max_pixels
    )
    with (
        stack.paused(),
        scratch_directory(settings.scratch) as scratch,
        Sandbox(1, settings.render_timeout_seconds, settings.render_memory_mib, scratch) as sandbox,
    ):
        sandbox.preview(files[0], spec)
        (process,) = (
            p for p in psutil.Process().children() if "sandbox.worker" in str(p.cmdline())
        )
        before = cpu_seconds(process)
        for file in [*files] * _RENDERS:
            sandbox.preview(file, spec)
        return (cpu_seconds(process) - before) / (len(files) * _RENDERS)


@contextmanager
def sleeping_workers(
    stack: RunningStack, count: int, seconds: float, photo: Path
) -> Iterator[psutil.Process]:
    """So many workers that sleep instead of rendering, as soon as the daemon knows of them.

    Yields the process that they descend from.
    """
    environment = without_settings(os.environ) | stack.environment
    environment |= {key: SETTINGS[key] for key in ("LENS_THREADS", "LENS_PREVIEW_CONCURRENCY")}
    arguments = [str(count), str(seconds), str(photo)]
    with (stack.home / "logs" / "sleeping-workers.log").open("ab") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "benchmarks.sleeping_worker", *arguments],
            # Dagster tells on every start that something is beta.
            env={**environment, "PYTHONWARNINGS": "ignore"},
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=log,
        )
    family = [process]
    try:
        _await_slots(stack, count)
        family += process.children(recursive=True)
        yield process
    finally:
        process.terminate()
        _, alive = psutil.wait_procs(family, _STOP_SECONDS)
        for left in alive:
            left.kill()
    _await_slots(stack, 0)


def _await_slots(stack: RunningStack, count: int) -> None:
    queue = queue_id(PREVIEWS, Release.of(stack.settings).id)
    deadline = time.monotonic() + _START_SECONDS
    while (offered := stack.pipeline.runs.slots().get(queue, 0)) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{offered} workers are there, not {count}")
        time.sleep(_POLL_SECONDS)


def _measure(
    stack: RunningStack,
    name: str,
    rows: int,
    workers: int,
    sources: Sequence[str],
    process: psutil.Process,
) -> _Measured:
    # A worker's first run takes longer.
    make_rows(stack, f"warm-{name}", workers * stack.settings.batch_size, sources)
    before = usage(stack, process)
    with _connections(stack) as counted:
        ids = make_rows(stack, f"scale-{name}", rows, sources)
    used = usage(stack, process).since(before)
    times = sorted(stack.materialized_at(ids).values())
    first, last = (round(share * (rows - 1)) for share in _MIDDLE)
    rate = (last - first) / (times[last] - times[first]).total_seconds()
    return _Measured(rate, rows, used, max(counted))


def make_rows(stack: RunningStack, prefix: str, count: int, sources: Sequence[str]) -> list[str]:
    """Insert so many photos and wait until all are made and no run is under way."""
    ids = [f"{prefix}-{index:05}" for index in range(count)]
    stack.add_rows({key: sources[index % len(sources)] for index, key in enumerate(ids)})
    stack.await_previews(ids)
    stack.await_no_runs()
    return ids


@contextmanager
def _connections(stack: RunningStack) -> Iterator[list[int]]:
    """Count clients of PostgreSQL, ourselves included, until the end of the block."""
    counted: list[int] = []
    ended = threading.Event()

    def count() -> None:
        while True:
            with stack.dagster.connect() as connection:
                counted.append(connection.execute(_CLIENTS).scalar_one())
            if ended.wait(_POLL_SECONDS):
                return

    thread = threading.Thread(target=count, name="connections")
    thread.start()
    try:
        yield counted
    finally:
        ended.set()
        thread.join()


_CLIENTS = sa.text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
