"""How fast a finished master leaves the HTTP app, next to Debian's nginx sending the same file.

Both are asked in turns by one client that throws the bytes away as they come. The app finds out who
asks, and where the master stands, before it sends a byte; nginx has its own defaults: sendfile.
"""

import getpass
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

import lens_pipeline
from benchmarks.running_stack import RunningStack, running_stack
from lens_pipeline.core.ports import free_port
from lens_pipeline.derivatives.registry import MASTER
from lens_pipeline.derivatives.status import row_statuses

_BYTES, _QUICK_BYTES = 512 * 2**20, 64 * 2**20
_ROUNDS, _QUICK_ROUNDS = 15, 3
_SHOT = Path(lens_pipeline.__file__).parent / "cli" / "demo" / "samples" / "bunny.mp4"
_PROJECT, _MASTER = "bench", "film"
_MASTER_SECONDS = 120.0
_START_SECONDS = 10.0


def run(quick: bool = False) -> dict[str, float]:
    """`video_throughput_vs_nginx`: 0.7 means 70 bytes while nginx sends 100."""
    nginx = _nginx()
    with running_stack() as stack:
        size = _QUICK_BYTES if quick else _BYTES
        file = _ready_master(stack, size)
        ours: list[float] = []
        theirs: list[float] = []
        with _serving(nginx, file) as nginx_port:
            path = f"/api/projects/{_PROJECT}/master-videos/{_MASTER}/video"
            for number in range((_QUICK_ROUNDS if quick else _ROUNDS) + 1):
                app_seconds = _fetch(stack.settings.api_port, path, size)
                nginx_seconds = _fetch(nginx_port, f"/{file.name}", size)
                if number:  # the first pass brings the file into memory
                    ours.append(size / app_seconds)
                    theirs.append(size / nginx_seconds)
    ours_median, theirs_median = statistics.median(ours), statistics.median(theirs)
    return {
        "video_throughput_vs_nginx": ours_median / theirs_median,
        "video_mib_per_second": ours_median / 2**20,
        "video_mib_per_second_nginx": theirs_median / 2**20,
    }


def _nginx() -> str:
    # Where Debian installs it is on the PATH of root only.
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SystemExit("this benchmark needs nginx: apt-get install nginx-light")
    return found


def _ready_master(stack: RunningStack, size: int) -> Path:
    """The file of a finished master, in the place of which there is one of so many bytes."""
    (shot,) = stack.store_files([_SHOT])
    with stack.application.begin() as connection:
        for statement in _ROWS:
            connection.execute(statement, {"project": _PROJECT, "master": _MASTER, "shot": shot})
    deadline = time.monotonic() + _MASTER_SECONDS
    while (path := _path(stack)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError("the master was not made")
        time.sleep(0.2)
    file = stack.home / "store" / path
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as large:
        for _ in range(size // 2**20):
            large.write(os.urandom(2**20))
    return unfinished.replace(file)


def _path(stack: RunningStack) -> str | None:
    rows = stack.pipeline.catalog.project_rows(MASTER.kind, _PROJECT, [_MASTER])
    row = rows[_MASTER].row
    return row_statuses(stack.pipeline, MASTER, [row])[row.id].path


def _fetch(port: int, path: str, size: int) -> float:
    """Seconds from the request to the last byte."""
    buffer = bytearray(2**20)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request.encode())
        received = 0
        head = b""
        while count := client.recv_into(buffer):
            head = head or bytes(buffer[:count])
            received += count
    seconds = time.perf_counter() - started
    if not head.startswith(b"HTTP/1.1 200") or received < size:
        raise RuntimeError(f"{path} on port {port} was not sent whole: {head[:200]!r}")
    return seconds


@contextmanager
def _serving(nginx: str, file: Path) -> Iterator[int]:
    """nginx over the directory of `file`, set up as Debian does; yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "nginx.conf"
        config.write_text(_CONFIG.format(directory=name, port=port, root=file.parent, user=_user()))
        process = subprocess.Popen(
            [nginx, "-p", name, "-c", str(config), "-e", f"{name}/error.log"],
            stdin=subprocess.DEVNULL,
        )
        try:
            _await(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _user() -> str:
    # The workers of one that root starts would otherwise not be let into a home directory.
    return f"user {getpass.getuser()};" if os.geteuid() == 0 else ""


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not start")


_CONFIG = """
{user}
worker_processes auto;
daemon off;
pid {directory}/nginx.pid;
events {{ worker_connections 768; }}
http {{
    sendfile on;
    tcp_nopush on;
    types {{ video/mp4 mp4; }}
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""
_ROWS = [
    sa.text(
        "INSERT INTO project_assets (asset_id, project_id, asset_url)"
        " VALUES ('shot', :project, :shot)"
    ),
    sa.text(
        "INSERT INTO master_videos (master_id, project_id, name, shots_config, updated_at)"
        " VALUES (:master, :project, 'film', '[\"shot\"]', now())"
    ),
]
