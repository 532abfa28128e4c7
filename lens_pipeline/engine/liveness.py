"""Whether a process lives, asked from outside every few seconds: it must not import Dagster."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import grpc
import psycopg2
from grpc_health.v1 import health_pb2

from lens_pipeline.core.endpoints import StackError, resolve, running_up
from lens_pipeline.core.files import private_directory, socket_path, write_private
from lens_pipeline.core.ports import CODE_PORT, reachable_host, serves
from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.errors import first_line
from lens_pipeline.settings import Settings

_ANSWER_SECONDS = 3
# A worker beats every 2 s while it has its broker.
_WORKER_SECONDS = 60.0
# Dagster's daemons beat every 30 s.
_DAEMON_SECONDS = 90.0
# The column is UTC without a time zone.
_HEARTBEAT = (
    "SELECT extract(epoch FROM now() AT TIME ZONE 'utc' - timestamp)::float FROM daemon_heartbeats"
    " WHERE daemon_type = %s"
)
# Dagster's name of the daemon that launches queued runs.
QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"


def worker_role(queue: str) -> str:
    return f"worker-{queue}"


def beat(home: Path, queue: str) -> None:
    _beat_file(home, queue).touch(mode=0o600)


def note_role(home: Path, role: str) -> None:
    private_directory(home / "run")
    write_private(_role_file(home), role)


def started_roles(home: Path) -> list[str]:
    """All if `lens up` runs, else the one last started with this home. Raises StackError: none."""
    if running_up(home):
        return list(CHECKS)
    try:
        return [_role_file(home).read_text(encoding="utf-8")]
    except OSError:
        raise StackError(
            f"`lens up` does not run at {home}, and `lens run` or `lens worker` was not started"
            " there: name the role"
        ) from None


def problem_of(role: str, settings: Settings) -> str | None:
    """Return one line, or None if it lives. Raises StackError: Dagster's database is not known."""
    return CHECKS[role](settings)


def heartbeat_age_seconds(dagster_url: str) -> float | None:
    """Return None if no daemon has beaten.

    Raises psycopg2.Error; of it UndefinedTable: Dagster's tables are absent.
    """
    url = dagster_url.replace("+psycopg2", "", 1)
    connecting = psycopg2.connect(url, connect_timeout=_ANSWER_SECONDS)
    with closing(connecting) as connection, connection.cursor() as cursor:
        cursor.execute(_HEARTBEAT, (QUEUE_DAEMON,))
        row = cursor.fetchone()
    return row[0] if row else None


def is_recent(heartbeat_age: float | None) -> bool:
    return heartbeat_age is not None and heartbeat_age <= _DAEMON_SECONDS


def code_socket(home: Path) -> Path:
    """Where the code server of `lens up` listens. Raises StackError."""
    return socket_path(home, "code.sock")


def _code(settings: Settings) -> str | None:
    home, port = settings.resolved_home, settings.code_port or CODE_PORT
    address = f"{reachable_host(settings.code_bind)}:{port}"
    if running_up(home):
        address = f"unix:{code_socket(home)}"
    request = health_pb2.HealthCheckRequest(service="DagsterApi")
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(request, timeout=_ANSWER_SECONDS)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
            return f"the code server at {address} does not answer: {code}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"the code server at {address} is not serving yet"
    return None


def _web(what: str, bind: str, port: int, path: str) -> str | None:
    return None if serves(bind, port, path) else f"{what} does not answer at port {port}"


def _daemon(settings: Settings) -> str | None:
    try:
        age = heartbeat_age_seconds(resolve(settings, broker=False).dagster_url)
    except psycopg2.Error as error:
        return f"the daemon's heartbeat cannot be read: {first_line(error)}"
    if age is None:
        return "the daemon has not beaten yet"
    return None if is_recent(age) else f"the daemon's last heartbeat is {age:.0f} s old"


def _worker(queue: str, settings: Settings) -> str | None:
    try:
        age = time.time() - _beat_file(settings.resolved_home, queue).stat().st_mtime
    except OSError:
        return f"the worker of {queue} has not begun"
    return f"the worker of {queue} last beat {age:.0f} s ago" if age > _WORKER_SECONDS else None


def _beat_file(home: Path, queue: str) -> Path:
    return home / "run" / f"{worker_role(queue)}.beat"


def _role_file(home: Path) -> Path:
    return home / "run" / "role"


CHECKS: Mapping[str, Callable[[Settings], str | None]] = {
    "code": _code,
    "dagster": lambda s: _web("the Dagster UI", s.bind, s.dagster_port, "/server_info"),
    "daemon": _daemon,
    "api": lambda s: _web("the HTTP app", s.bind, s.api_port, "/api/health/live"),
    **{worker_role(queue): partial(_worker, queue) for queue in QUEUES},
}
