"""The Celery app: one task, which executes a Dagster run in a warm process."""

import logging
import signal
import socket
from functools import cache
from typing import Any

from celery import Celery, signals
from dagster import DagsterInstance
from kombu.entity import Queue

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.core.telemetry import flush
from lens_pipeline.derivatives.registry import PREVIEWS, QUEUES
from lens_pipeline.derivatives.release import Release

EXECUTE_RUN = "lens.execute_run"

# A run holds at most a batch of encoded pictures; a child above this is leaking (KiB).
_MAX_CHILD_KIB = 800 * 1024
# After so many seconds Redis hands a task that no worker has finished to the next one: a worker
# that was killed before it began the run must not cost more. A run under way refuses the copy.
_VISIBILITY_SECONDS = 30
_RESTORE_EVERY_SECONDS = 5
# What the last traces of a child may take.
_SEND_SECONDS = 1.0
# RabbitMQ drops the queues of a release that has no workers any more. Runs are long failed then.
_QUEUE_EXPIRES_MS = 24 * 3600 * 1000
# So long RabbitMQ may take to say that a task is on its disk, before it is sent again.
_CONFIRM_SECONDS = 5
# RabbitMQ gives the tasks of a worker that is cut off to another one after two missed beats.
_HEARTBEAT_SECONDS = 10
# The broker's side: see `database`. Options of TCP, by their numbers.
_TCP = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 3,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 15_000,
}

# What Dagster does not turn into a failed run, such as a database that is being restarted, keeps a
# run from beginning: it is tried again for 30 s in all, within the time that a start may take.
_AGAIN = {
    "autoretry_for": (Exception,),
    "retry_backoff": 1,
    "retry_backoff_max": 15,
    "retry_jitter": False,
    "max_retries": 5,
}

logger = logging.getLogger(__name__)


def celery_config(endpoints: Endpoints) -> dict[str, Any]:
    config: dict[str, Any] = {
        "worker_prefetch_multiplier": 1,
        "task_acks_late": True,
        # A run that its child had begun refuses to be executed again.
        "task_reject_on_worker_lost": True,
        # A run's lock and its events tell how it fares; results only interest who asked for them.
        "task_ignore_result": not endpoints.result_url,
        "task_track_started": True,
        "result_expires": 3600,
        "worker_consumer": "lens_pipeline.engine.workers.consumer:PatientConsumer",
        "worker_max_tasks_per_child": 500,
        "worker_max_memory_per_child": _MAX_CHILD_KIB,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "broker_heartbeat": _HEARTBEAT_SECONDS,
        "broker_connection_retry_on_startup": True,
        # Without a limit: a broker that is down for an hour must not end the worker.
        "broker_connection_max_retries": None,
        # On a lost connection running tasks go on; the run lock refuses their redelivery.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
    }
    if endpoints.broker_url.startswith("amqp"):
        # RabbitMQ closes the channel of who has not acknowledged a task for half an hour
        # (`consumer_timeout`): as any lost connection, it must not end the worker.
        config["broker_channel_error_retry"] = True
        # Else a task that is lost with the broker looks like one that was sent.
        config["broker_transport_options"]["confirm_publish"] = True
    if endpoints.broker_url.startswith("redis"):
        config["broker_transport_options"] |= {
            "visibility_timeout": _VISIBILITY_SECONDS,
            "unacked_restore_interval": _RESTORE_EVERY_SECONDS,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "socket_keepalive_options": _TCP,
            # A worker that the network has forgotten takes a new connection after about 20 s.
            "health_check_interval": 10,
        }
    return config


def celery_queue(queue: str, release: Release) -> str:
    """The broker's queue for runs of `queue`: workers of another release never see them."""
    return f"{queue}.{release.id}"


def queue_name(celery_queue: str) -> str:
    """The queue that a broker's queue is of."""
    return celery_queue.partition(".")[0]


def declare_queues(app: Celery, release: Release) -> None:
    """Those who send and those who take tasks must declare the queues alike (RabbitMQ)."""
    app.conf.task_queues = [
        Queue(
            name,
            routing_key=name,
            queue_arguments={"x-max-priority": 10, "x-expires": _QUEUE_EXPIRES_MS},
        )
        for name in (celery_queue(queue, release) for queue in QUEUES)
    ]


def app_arguments(endpoints: Endpoints) -> dict[str, Any]:
    """Arguments of `make_app`, the same for those who send tasks and those who execute them."""
    return {
        "broker": endpoints.broker_url,
        "backend": endpoints.result_url or None,
        "config_source": celery_config(endpoints),
        "task_default_queue": PREVIEWS,
    }


def launch_signature(task: Any, run_id: str) -> Any:
    """What `task` is sent as to execute a run."""
    # Redis has nothing to confirm, and minds nothing.
    return task.si(run_id=run_id).set(confirm_timeout=_CONFIRM_SECONDS)


def execute_run_task(app: Celery) -> Any:
    """Register and return the task `lens.execute_run(run_id)`."""

    @app.task(name=EXECUTE_RUN, **_AGAIN)
    def execute_run(run_id: str) -> int:
        from lens_pipeline.engine.run_execution import execute

        try:
            return execute(_instance(), run_id)
        finally:
            # Dagster leaves its own handlers behind; the pool stops idle children by SIGTERM.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return execute_run


def worker_app(endpoints: Endpoints, release: Release) -> Celery:
    """The app of a worker process."""
    # Not before the process has checked that Dagster has it.
    from dagster_celery.make_app import make_app

    app = make_app(app_args=app_arguments(endpoints))
    declare_queues(app, release)
    execute_run_task(app)
    return app


@cache
def _instance() -> DagsterInstance:
    """The child's own Dagster instance, kept from run to run: making one costs about 0.1 s."""
    return DagsterInstance.get()


@signals.setup_logging.connect
def _leave_logging(**_: object) -> None:
    """What is connected here is done instead of Celery's own set-up: it is set up already."""


@signals.worker_process_shutdown.connect
def _send_traces(**_: object) -> None:
    """A child ends without doing what others do at their end."""
    flush(_SEND_SECONDS)


@signals.worker_process_init.connect
def _leave_terminal_group(**_: object) -> None:
    """Ctrl-C in a terminal reaches the whole group: the parent decides what its children do."""
    import os

    os.setpgid(0, 0)
