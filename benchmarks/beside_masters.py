"""Previews' latency while two masters are encoded, against the same without.

Idle and busy blocks take turns in one stack. In a busy block two masters, whose shots all differ,
are encoded from before its first photo until after its last preview; then their runs are ended.
"""

import datetime as dt
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import sqlalchemy as sa

from benchmarks.photos import jpegs
from benchmarks.running_stack import USER, RunningStack, running_stack
from lens_pipeline.media.ffmpeg import tools

_MASTERS = 2
_BLOCKS, _QUICK_BLOCKS = 3, 1
_ROWS, _QUICK_ROWS = 20, 5
_EVERY_SECONDS = 1.5
_FILES = 10
_EDGE = 1024
_ENCODING_SECONDS = 120.0
# Of each shot: two cores encode this for longer than a block takes.
_SHOT_SECONDS = 60
_SHOTS = {
    "wide": f"testsrc2=size=1920x1080:rate=24:duration={_SHOT_SECONDS}",
    "tall": f"testsrc2=size=1080x1920:rate=30:duration={_SHOT_SECONDS}",
    "small": f"testsrc2=size=1280x720:rate=25:duration={_SHOT_SECONDS}",
}


def run_blocks(stack: RunningStack, quick: bool) -> tuple[list[float], list[float]]:
    """Latencies of the previews, seconds: of idle blocks and of busy ones."""
    sources = stack.store_files(jpegs(_FILES, _EDGE, _EDGE))
    stack.warm_up(sources)
    shots = _shots(stack)
    idle: list[float] = []
    busy: list[float] = []
    for block in range(_QUICK_BLOCKS if quick else _BLOCKS):
        rows = _QUICK_ROWS if quick else _ROWS
        idle += _latencies(stack, [f"idle-{block}-{i}" for i in range(rows)], sources)
        with _encoding(stack, shots, block):
            busy += _latencies(stack, [f"busy-{block}-{i}" for i in range(rows)], sources)
    return idle, busy


def run(quick: bool = False) -> dict[str, float]:
    """`preview_p95_beside_masters`: busy over idle."""
    with running_stack({"LENS_MASTER_CONCURRENCY": str(_MASTERS)}) as stack:
        idle, busy = run_blocks(stack, quick)
    ours = {
        f"preview_p{p}_{name}_seconds": float(np.percentile(values, p))
        for p in (50, 95)
        for name, values in (("idle", idle), ("beside_masters", busy))
    }
    ratio = ours["preview_p95_beside_masters_seconds"] / ours["preview_p95_idle_seconds"]
    return {"preview_p95_beside_masters": ratio, **ours}


def _shots(stack: RunningStack) -> list[str]:
    """Insert the shots as videos, with posters; returns their ids."""
    for name, pattern in _SHOTS.items():
        file = stack.home / f"{name}.mp4"
        rate = ("-b:v", "10M", "-maxrate", "10M", "-bufsize", "10M")
        encode = ("-vf", "noise=alls=8:allf=t", "-c:v", "libx264", "-preset", "ultrafast", *rate)
        arguments = ("-f", "lavfi", "-i", pattern, *encode, "-y", str(file))
        subprocess.run([tools.find_ffmpeg(), "-v", "error", *arguments], check=True, timeout=600)
        (key,) = stack.store_files([file])
        with stack.application.begin() as connection:
            connection.execute(_INSERT_VIDEO, {"id": name, "user": USER, "source": key})
            connection.execute(_INSERT_ASSET, {"id": name})
    return list(_SHOTS)


@contextmanager
def _encoding(stack: RunningStack, shots: Sequence[str], block: int) -> Iterator[None]:
    """Two masters are encoded during the block."""
    for number in range(_MASTERS):
        # Another order each: nothing is taken from the cache, which is empty until one is done.
        order = [*shots[number:], *shots[:number]]
        with stack.application.begin() as connection:
            values = {"id": f"m-{block}-{number}", "shots": json.dumps(order)}
            connection.execute(_INSERT_MASTER, values)
    deadline = time.monotonic() + _ENCODING_SECONDS
    while len(_encoders(stack)) < _MASTERS:
        if time.monotonic() > deadline:
            raise TimeoutError("the masters are not encoded")
        time.sleep(0.2)
    yield
    if len(_encoders(stack)) < _MASTERS:
        raise RuntimeError("a master was done before the block: make its shots longer")
    stack.terminate_runs()
    stack.await_no_runs()


def _encoders(stack: RunningStack) -> list[int]:
    return [process.ppid() for process in stack.processes() if "ffmpeg" in process.name()]


def _latencies(stack: RunningStack, ids: Sequence[str], sources: Sequence[str]) -> list[float]:
    started = time.monotonic()
    for index, row_id in enumerate(ids):
        time.sleep(max(0.0, started + index * _EVERY_SECONDS - time.monotonic()))
        stack.add_rows({row_id: sources[index % len(sources)]})
    stack.await_previews(ids)
    finished, made = stack.finished_at(ids), stack.materialized_at(ids)
    return [(made[key] - finished[key]) / dt.timedelta(seconds=1) for key in ids]


_INSERT_VIDEO = sa.text(
    "INSERT INTO generations (id, user_id, type, status, asset_url, created_at, updated_at)"
    " VALUES (:id, :user, 'video', 'success', :source, now(), now())"
)
_INSERT_ASSET = sa.text(
    "INSERT INTO project_assets (asset_id, project_id, generation_id) VALUES (:id, 'bench', :id)"
)
_INSERT_MASTER = sa.text(
    "INSERT INTO master_videos (master_id, project_id, name, shots_config)"
    " VALUES (:id, 'bench', :id, CAST(:shots AS jsonb))"
)
