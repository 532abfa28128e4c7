"""Whether Dagster's daemon lives."""

import time

from dagster import DagsterInstance

# Dagster's daemons beat every 30 s.
_ALIVE_SECONDS = 90.0
_QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"


def daemon_heartbeat_age_seconds(instance: DagsterInstance) -> float | None:
    """Seconds since the daemon that launches queued runs last beat, None if it never did."""
    heartbeat = instance.get_daemon_heartbeats().get(_QUEUE_DAEMON)
    return None if heartbeat is None else time.time() - heartbeat.timestamp


def daemon_is_alive(instance: DagsterInstance) -> bool:
    age = daemon_heartbeat_age_seconds(instance)
    return age is not None and age < _ALIVE_SECONDS
