"""The Celery worker process: a warm parent whose forked children execute runs."""

import importlib
import os
import signal
import socket
import threading

import psutil
from celery import signals

from lens_pipeline.engine.celery_app import worker_app
from lens_pipeline.settings import Settings
from lens_pipeline.stack.endpoints import Endpoints

# Imported before the fork; without them each child pays about 3 s of imports at its first run.
_PRELOAD = (
    "dagster._cli.api",
    "dagster._grpc.server",
    "dagster_postgres",
    "psycopg2",
    "upath",
    "fsspec",
    "lens_pipeline.definitions",
    "lens_pipeline.engine.coordinator",
    "lens_pipeline.engine.launcher",
    "lens_pipeline.engine.run_worker",
    "lens_pipeline.engine.storage",
)


def run_worker(settings: Settings, endpoints: Endpoints, queue: str, concurrency: int) -> None:
    """Work on `queue` until SIGTERM or SIGINT; runs in progress then get the grace period."""
    # `lens up` takes back its word on where the services are as soon as it stops; the runs that are
    # finishing then, and those that begin at this moment, still need them.
    os.environ.update(endpoints.environment())
    for module in _PRELOAD:
        importlib.import_module(module)

    @signals.worker_shutting_down.connect(weak=False)
    def _limit_grace(**_: object) -> None:
        timer = threading.Timer(settings.grace_seconds, _interrupt_children)
        timer.daemon = True
        timer.start()

    app = worker_app(endpoints)
    app.worker_main(
        [
            "worker",
            f"--queues={queue}",
            f"--concurrency={concurrency}",
            f"--hostname={queue}-{os.getpid()}@{socket.gethostname()}",
            "--pool=prefork",
            "--without-gossip",
            "--without-mingle",
            f"--loglevel={settings.log_level}",
        ]
    )


def _interrupt_children() -> None:
    """Interrupt the runs that are still under way; idle children ignore it.

    Dagster then reports such a run as failed by interruption, and the backfill takes it up again.
    """
    for child in psutil.Process().children():
        try:
            child.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            continue
