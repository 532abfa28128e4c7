"""Whether one process of the product lives, asked from beside it: quick, and without Dagster.

For a container's health check and for monitoring; what serves requests is asked one, a worker
leaves a mark in `$LENS_HOME`, and the daemon beats in Dagster's database.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import psycopg2
from grpc_health.v1 import health_pb2

from lens_pipeline.core.endpoints import StackError, resolve
from lens_pipeline.core.files import private_directory, write_private
from lens_pipeline.core.ports import CODE_PORT, reachable_host, serves
from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.settings import Settings

_ANSWER_SECONDS = 3
# A worker beats every 2 s while it has its broker, which may take a while to come back.
_WORKER_SECONDS = 60.0
# Dagster's daemons beat every 30 s.
_DAEMON_SECONDS = 90.0
# Dagster writes it in UTC, without saying so.
_HEARTBEAT = (
    "SELECT extract(epoch FROM now() AT TIME ZONE 'utc' - timestamp)::float FROM daemon_heartbeats"
    " WHERE daemon_type = 'QUEUED_RUN_COORDINATOR'"
)


def worker_role(queue: str) -> str:
    """The name of the role of a worker of `queue`."""
    return f"worker-{queue}"


def beat(home: Path, queue: str) -> None:
    """Leave the mark of a worker that lives."""
    _beat_file(home, queue).touch(mode=0o600)


def note_role(home: Path, role: str) -> None:
    """Note what `problem_of(settings, None)` is about."""
    private_directory(home / "run")
    write_private(_role_file(home), role)


def noted_role(home: Path) -> str:
    """What was started last with this home.

    Raises StackError: nothing was.
    """
    try:
        return _role_file(home).read_text(encoding="utf-8")
    except OSError:
        raise StackError(
            f"neither `lens run` nor `lens worker` was started at {home}: name the role"
        ) from None


def problem_of(role: str, settings: Settings) -> str | None:
    """What is wrong with `role`, in one line; None: it lives.

    Raises StackError: it is not known where the daemon's database is.
    """
    return CHECKS[role](settings)


def _code(settings: Settings) -> str | None:
    port = settings.code_port or CODE_PORT
    address = f"{reachable_host(settings.code_bind)}:{port}"
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


def _dagster(settings: Settings) -> str | None:
    return _web("the Dagster UI", settings.bind, settings.dagster_port, "/server_info")


def _api(settings: Settings) -> str | None:
    return _web("the HTTP app", settings.bind, settings.api_port, "/api/health/live")


def _web(what: str, bind: str, port: int, path: str) -> str | None:
    return None if serves(bind, port, path) else f"{what} does not answer at port {port}"


def _daemon(settings: Settings) -> str | None:
    url = resolve(settings, broker=False).dagster_url.replace("+psycopg2", "", 1)
    try:
        connection = psycopg2.connect(url, connect_timeout=_ANSWER_SECONDS)
        try:
            with connection.cursor() as cursor:
                cursor.execute(_HEARTBEAT)
                row = cursor.fetchone()
        finally:
            connection.close()
    except psycopg2.Error as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"the daemon's heartbeat cannot be read: {reason}"
    if row is None:
        return "the daemon has not beaten yet"
    if row[0] > _DAEMON_SECONDS:
        return f"the daemon's last heartbeat is {row[0]:.0f} s old"
    return None


def _worker(queue: str) -> Callable[[Settings], str | None]:
    def check(settings: Settings) -> str | None:
        try:
            age = time.time() - _beat_file(settings.resolved_home, queue).stat().st_mtime
        except OSError:
            return f"the worker of {queue} has not begun"
        if age > _WORKER_SECONDS:
            return f"the worker of {queue} last beat {age:.0f} s ago"
        return None

    return check


def _beat_file(home: Path, queue: str) -> Path:
    return home / "run" / f"{worker_role(queue)}.beat"


def _role_file(home: Path) -> Path:
    return home / "run" / "role"


CHECKS: Mapping[str, Callable[[Settings], str | None]] = {
    "code": _code,
    "dagster": _dagster,
    "daemon": _daemon,
    "api": _api,
    **{worker_role(queue): _worker(queue) for queue in QUEUES},
}
