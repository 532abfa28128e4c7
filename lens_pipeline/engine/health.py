"""Whether Dagster's daemon lives."""

import time
from collections.abc import Mapping
from typing import Protocol

from dagster._daemon.types import DaemonHeartbeat

# Dagster's daemons beat every 30 s.
_ALIVE_SECONDS = 90.0
_QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"


class Heartbeats(Protocol):
    """Dagster's instance, or its run storage alone."""

    def get_daemon_heartbeats(self) -> Mapping[str, DaemonHeartbeat]: ...


def daemon_heartbeat_age_seconds(source: Heartbeats) -> float | None:
    """Seconds since the daemon that launches queued runs last beat, None if it never did."""
    heartbeat = source.get_daemon_heartbeats().get(_QUEUE_DAEMON)
    return None if heartbeat is None else time.time() - heartbeat.timestamp


def daemon_is_alive(source: Heartbeats) -> bool:
    age = daemon_heartbeat_age_seconds(source)
    return age is not None and age < _ALIVE_SECONDS
