"""The Celery app, its configuration and its one task."""

import logging
import os
import signal
import socket
import sys
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

# A run holds at most a batch of encoded pictures; a child above this leaks.
_MAX_CHILD_KIB = 800 * 1024
# After this time Redis hands an unfinished task to another worker. A run under way refuses it.
_VISIBILITY_SECONDS = 30
_RESTORE_EVERY_SECONDS = 5
_SEND_SECONDS = 1.0
# RabbitMQ drops the queues of a release without workers.
_QUEUE_EXPIRES_MS = 24 * 3600 * 1000
# A task is sent again if RabbitMQ does not confirm it.
_CONFIRM_SECONDS = 5
# After two missed beats RabbitMQ hands on a worker's tasks.
_HEARTBEAT_SECONDS = 10
# As the keepalives of `core.postgres`.
_TCP = {"TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3} | (
    {"TCP_KEEPIDLE": 5, "TCP_USER_TIMEOUT": 15_000}
    if sys.platform == "linux"
    else {"TCP_KEEPALIVE": 5}  # macOS's name; it has no time limit for sent data
)
# Errors outside of a run, such as a restart of the database, are tried again for 30 s in all:
# within the time that a run may take to start.
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
        # A begun run refuses a repetition.
        "task_reject_on_worker_lost": True,
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
        # No limit: a broker that is down for an hour must not end the worker.
        "broker_connection_max_retries": None,
        # The run's lock refuses a redelivery.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            "max_retries": 3,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
    }
    if endpoints.broker_url.startswith("amqp"):
        # RabbitMQ closes a channel after half an hour without an acknowledgement
        # (`consumer_timeout`), which must not end the worker.
        config["broker_channel_error_retry"] = True
        # Else a task that is lost with the broker counts as sent.
        config["broker_transport_options"]["confirm_publish"] = True
    if endpoints.broker_url.startswith("redis"):
        config["broker_transport_options"] |= {
            "visibility_timeout": _VISIBILITY_SECONDS,
            "unacked_restore_interval": _RESTORE_EVERY_SECONDS,
            "unacked_restore_throttle": 1,
            "socket_keepalive": True,
            "socket_keepalive_options": {
                getattr(socket, name): value for name, value in _TCP.items()
            },
            # A lost connection is replaced after about 20 s.
            "health_check_interval": 10,
        }
    return config


def celery_queue(queue: str, release: Release) -> str:
    """Hidden from workers of another release."""
    return f"{queue}.{release.id}"


def queue_name(celery_queue: str) -> str:
    """The inverse of `celery_queue`."""
    return celery_queue.partition(".")[0]


def declare_queues(app: Celery, release: Release) -> None:
    """RabbitMQ wants the same declaration from senders and workers."""
    app.conf.task_queues = [
        Queue(
            name,
            routing_key=name,
            queue_arguments={"x-max-priority": 10, "x-expires": _QUEUE_EXPIRES_MS},
        )
        for name in (celery_queue(queue, release) for queue in QUEUES)
    ]


def app_arguments(endpoints: Endpoints) -> dict[str, Any]:
    """For `make_app`, of senders and workers."""
    return {
        "broker": endpoints.broker_url,
        "backend": endpoints.result_url or None,
        "config_source": celery_config(endpoints),
        "task_default_queue": PREVIEWS,
    }


def launch_signature(task: Any, run_id: str) -> Any:
    # Redis ignores the time-out.
    return task.si(run_id=run_id).set(confirm_timeout=_CONFIRM_SECONDS)


def execute_run_task(app: Celery) -> Any:
    @app.task(name=EXECUTE_RUN, **_AGAIN)
    def execute_run(run_id: str) -> int:
        from lens_pipeline.engine.run_execution import execute

        try:
            return execute(_instance(), run_id)
        finally:
            # Dagster leaves handlers; the pool stops idle children by SIGTERM.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return execute_run


def worker_app(endpoints: Endpoints, release: Release) -> Celery:
    # Imported after the check of Dagster's names.
    from dagster_celery.make_app import make_app

    app = make_app(app_args=app_arguments(endpoints))
    declare_queues(app, release)
    execute_run_task(app)
    return app


@cache
def _instance() -> DagsterInstance:
    """Making one takes about 0.1 s."""
    return DagsterInstance.get()


@signals.setup_logging.connect
def _leave_logging(**_: object) -> None:
    """Replaces Celery's own set-up."""


@signals.worker_process_shutdown.connect
def _send_traces(**_: object) -> None:
    """A child ends without exit handlers."""
    flush(_SEND_SECONDS)


@signals.worker_process_init.connect
def _leave_terminal_group(**_: object) -> None:
    """Ctrl-C reaches the whole group; the parent decides."""
    os.setpgid(0, 0)
