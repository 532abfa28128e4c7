"""The worker process, whose forked children execute runs."""

import gc
import importlib
import logging
import os
import signal
import socket
import threading

import psutil
from celery import signals

from lens_pipeline.core.endpoints import Endpoints, StackError
from lens_pipeline.core.logs import FILES
from lens_pipeline.derivatives.release import Release
from lens_pipeline.engine import liveness, upstream
from lens_pipeline.engine.processes import startup, usage
from lens_pipeline.engine.workers.app import celery_queue, worker_app
from lens_pipeline.engine.workers.membership import WorkerRegistration, registration_step
from lens_pipeline.settings import Settings

# Else each child takes about 3 s longer for its first run.
PRELOAD = (
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.log",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.contrib.testing.tasks",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.worker",
    "cffi.cparser",
    "dagster._cli.api",
    "dagster._core.definitions.repository_definition.repository_data_builder",
    "dagster._core.execution.plan.active",
    "dagster._core.executor.in_process",
    "dagster._core.instance.factory",
    "dagster._core.storage.root",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.system_config.composite_descent",
    "dagster._core.utility_ops",
    "dagster._grpc.server",
    "dagster_celery",
    "dagster_postgres",
    "psycopg2.extras",
    "upath.core",
    "upath.implementations.local",
    "fsspec",
    "lens_pipeline.definitions",
    "lens_pipeline.engine.run_coordinator",
    "lens_pipeline.engine.launcher",
    "lens_pipeline.engine.run_execution",
    "lens_pipeline.engine.dagster_storage.storage",
    "lens_pipeline.engine.workers.consumer",
    "kombu.transport.redis",
    "redis.asyncio",
)


def run_worker(settings: Settings, endpoints: Endpoints, queue: str, concurrency: int) -> None:
    """Work until SIGTERM or SIGINT; runs in progress then get the grace period.

    Raises StackError: the daemon is of another release now, or Dagster is not supported.
    """
    # `lens up` removes the addresses as soon as it stops, and runs still need them.
    os.environ.update(endpoints.environment())
    startup.set_up_logging()
    upstream.check("storage", "submission", "launcher", "worker")
    FILES.setLevel(logging.NOTSET)
    for module in PRELOAD:
        importlib.import_module(module)

    @signals.worker_shutting_down.connect(weak=False)
    def _limit_grace(**_: object) -> None:
        timer = threading.Timer(settings.grace_seconds, _interrupt_children)
        timer.daemon = True
        timer.start()

    @signals.heartbeat_sent.connect(weak=False)
    def _show_life(**_: object) -> None:
        liveness.beat(settings.resolved_home, queue)

    release = Release.of(settings)
    registration = WorkerRegistration(endpoints.dagster_url, release, queue, concurrency)
    signals.worker_process_init.connect(lambda **_: registration.leave_to_parent(), weak=False)
    app = worker_app(endpoints, release)
    app.steps["consumer"].add(registration_step(registration))  # pyright: ignore[reportOptionalSubscript] - set by Celery()
    registration.start()
    usage.publish(liveness.worker_role(queue), endpoints.dagster_url)
    # Celery's command would import a shell, which takes a second.
    worker = app.Worker(
        queues=celery_queue(queue, release),
        concurrency=concurrency,
        hostname=f"{queue}-{os.getpid()}@{socket.gethostname()}",
        pool_cls="prefork",
        without_gossip=True,
        without_mingle=True,
        loglevel=settings.log_level,
        quiet=True,
    )
    # Else collections in a child would copy what it shares with this process.
    gc.freeze()
    worker.start()
    if registration.problem is not None:
        raise StackError(registration.problem)


def _interrupt_children() -> None:
    """The backfill takes up interrupted runs; idle children ignore it."""
    for child in psutil.Process().children():
        try:
            child.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            continue
