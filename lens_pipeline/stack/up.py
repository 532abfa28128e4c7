"""`lens up`: every process of one machine, from the first start to a clean stop."""

import http.client
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Self

from lens_pipeline import scratch
from lens_pipeline.settings import Settings
from lens_pipeline.stack import orphans
from lens_pipeline.stack.endpoints import (
    Endpoints,
    StackError,
    endpoints_of,
    services_file,
)
from lens_pipeline.stack.files import prepare_home, private_directory, write_private
from lens_pipeline.stack.ownership import Lock, current_owner, owner_lock, try_own
from lens_pipeline.stack.ports import LOOPBACK, accepts, free_port, reachable_host, require_free
from lens_pipeline.stack.services import Servers
from lens_pipeline.stack.supervisor import Program, Supervisor

COMMAND = "up"

_POLL_SECONDS = 0.1
_WATCH_SECONDS = 1.0
_OWNER_SECONDS = 60
# Dagster's processes import for 3-9 s of CPU each, several of them at once on a few cores.
_START_SECONDS = 120
# What a worker does after its runs' grace has ended: cancelling them and recording that.
_CANCEL_SECONDS = 15

# Stop order, highest first: nothing new is launched, runs end, then what they report to.
_DAEMON, _WORKER, _SERVER = 50, 40, 30


@dataclass(frozen=True)
class Stack:
    """What `lens up` runs, for those who show or steer it; safe to use from any thread."""

    endpoints: Endpoints
    web_url: str
    """Of the Dagster UI."""
    pages_url: str
    """Of our own pages and API."""
    supervisor: Supervisor
    _stop: threading.Event = field(default_factory=threading.Event)

    def statuses(self) -> dict[str, str]:
        """Raises StackError: supervisord is gone."""
        return self.supervisor.statuses()

    def request_stop(self) -> None:
        """Let `up` stop everything and return."""
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Whether a stop was requested, waiting at most so long for it."""
        return self._stop.wait(seconds)


def up(
    settings: Settings,
    *,
    prepare: Callable[[Endpoints], None],
    on_ready: Callable[[Stack], None],
    report: Callable[[str], None],
) -> None:
    """Start everything, call `on_ready`, and keep it running until a signal or `request_stop`.

    `prepare` is called once the servers answer, before anything that needs their tables. SIGINT,
    SIGTERM and SIGHUP raise KeyboardInterrupt in whatever is being called, which stops everything
    in order; Ctrl-C once more kills. Main thread only.

    Raises StackError: something cannot be started, another `lens up` runs here, or the supervisor
    was lost. Nothing is left running then either.
    """
    home = settings.resolved_home
    prepare_home(home)
    with _Signals() as signals, owner_lock(home) as owner:
        try:
            _own(owner, home, report)
            services_file(home).unlink(missing_ok=True)
            orphans.sweep(home, report)
            require_free("LENS_DAGSTER_PORT", settings.dagster_port, settings.bind)
            require_free("LENS_API_PORT", settings.api_port, settings.bind)
            scratch.sweep(settings.scratch)
            _run(settings, signals, prepare=prepare, on_ready=on_ready, report=report)
        except KeyboardInterrupt:
            return


def programs(settings: Settings, config_dir: Path) -> list[Program]:
    """The product's processes, without the servers they use.

    `config_dir` holds `workspace.yaml`. Raises StackError: no port is free for the code server.
    """
    code_port = free_port()
    workspace = str(config_dir / "workspace.yaml")
    environment = _environment(settings, code_port)
    python = (sys.executable, "-m")
    code_server = ("--module-name", "lens_pipeline.definitions", "--host", LOOPBACK)
    web = ("-h", settings.bind, "-p", str(settings.dagster_port), "-w", workspace)
    previews = ("--queue", "previews", "--concurrency", str(settings.preview_concurrency))
    masters = ("--queue", "masters", "--concurrency", str(settings.master_concurrency))
    return [
        Program(
            name="code",
            argv=(*python, "dagster", "api", "grpc", *code_server, "--port", str(code_port)),
            environment=environment,
            priority=_SERVER,
            ready=lambda: accepts(code_port),
            ready_timeout=_START_SECONDS,
        ),
        Program(
            name="worker-previews",
            argv=(*python, "lens_pipeline.cli", "worker", *previews),
            environment=environment,
            priority=_WORKER,
            stop_seconds=settings.grace_seconds + _CANCEL_SECONDS,
        ),
        Program(
            name="worker-masters",
            argv=(*python, "lens_pipeline.cli", "worker", *masters),
            environment=environment,
            priority=_WORKER,
            stop_seconds=settings.grace_seconds + _CANCEL_SECONDS,
        ),
        Program(
            name="web",
            argv=(*python, "lens_pipeline.engine.webserver", *web),
            environment=environment,
            priority=_SERVER,
            ready=lambda: _serves(settings.bind, settings.dagster_port, "/server_info"),
            ready_timeout=_START_SECONDS,
        ),
        Program(
            name="api",
            argv=(*python, "lens_pipeline.web"),
            environment=environment,
            priority=_SERVER,
            ready=lambda: _serves(settings.bind, settings.api_port, "/api/health/live"),
            ready_timeout=_START_SECONDS,
        ),
        Program(
            name="daemon",
            argv=(*python, "lens_pipeline.engine.daemon", "-w", workspace),
            environment=environment,
            priority=_DAEMON,
            # A daemon that starts without the code server shows an error and looks again later.
            needs=("code",),
            stop_seconds=20,
        ),
    ]


def find_config_dir() -> Path:
    """Where `dagster.yaml` and `workspace.yaml` are: in a checkout or with the installed package.

    Raises StackError: neither has them.
    """
    checkout = Path(__file__).parents[2]
    installed = Path(sys.prefix) / "share" / "lens-pipeline"
    for directory in (checkout, installed):
        if (directory / "dagster.yaml").is_file() and (directory / "workspace.yaml").is_file():
            return directory
    raise StackError(
        f"dagster.yaml and workspace.yaml are neither in {checkout} nor in {installed}:"
        " install lens-pipeline again"
    )


class _Signals:
    """The first signal to stop raises KeyboardInterrupt, once; Ctrl-C after it asks for hurry.

    Later ones raise nothing, so that no signal can interrupt the stopping itself.
    """

    _STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._stopping = False
        self._hurry = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in self._STOP:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def expect_stop(self) -> None:
        """From now on signals raise nothing."""
        self._stopping = True

    def hurry(self) -> bool:
        return self._hurry

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._stopping:
            self._hurry = self._hurry or number == signal.SIGINT
            return
        self._stopping = True
        raise KeyboardInterrupt


def _own(owner: Lock, home: Path, report: Callable[[str], None]) -> None:
    """Become the owner of `home`, after a short command that is. Raises StackError."""
    deadline = time.monotonic() + _OWNER_SECONDS
    told = False
    while not try_own(owner, COMMAND):
        other = current_owner(owner)
        if other and other.command == COMMAND:
            raise StackError(f"`lens {COMMAND}` already runs here (pid {other.pid})")
        if time.monotonic() > deadline:
            raise StackError(f"{other} still uses {home} after {_OWNER_SECONDS} s: stop it first")
        if other and not told:
            report(f"waiting for {other}, which uses {home}")
            told = True
        time.sleep(_POLL_SECONDS)


def _run(
    settings: Settings,
    signals: _Signals,
    *,
    prepare: Callable[[Endpoints], None],
    on_ready: Callable[[Stack], None],
    report: Callable[[str], None],
) -> None:
    home = settings.resolved_home
    config_dir = find_config_dir()
    shutil.copyfile(
        config_dir / "dagster.yaml", private_directory(home / "dagster") / "dagster.yaml"
    )
    servers = Servers(settings, broker=True)
    starting = servers.services(COMMAND, ready=False)
    endpoints = endpoints_of(settings, starting, broker=True)
    product = programs(settings, config_dir)
    everything = [*servers.programs(), *product]
    with Supervisor(home, everything, hurry=signals.hurry) as supervisor:
        try:
            servers.start(supervisor)
            # Before `prepare`: from here on `resolve` works; `lens` commands wait for `ready`.
            write_private(services_file(home), starting.to_json())
            prepare(endpoints)
            ready = servers.services(COMMAND, ready=True)
            write_private(services_file(home), ready.to_json())
            report(f"starting {', '.join(program.name for program in product)}")
            supervisor.start(*(program.name for program in product))
            stack = Stack(
                endpoints,
                _url(settings.bind, settings.dagster_port),
                _url(settings.bind, settings.api_port),
                supervisor,
            )
            on_ready(stack)
            _watch(stack, supervisor, report)
        finally:
            signals.expect_stop()
            services_file(home).unlink(missing_ok=True)
            report("stopping")


def _watch(stack: Stack, supervisor: Supervisor, report: Callable[[str], None]) -> None:
    """Wait for the request to stop, telling of programs that ended by themselves."""
    known = supervisor.pids()
    while not stack.wait(_WATCH_SECONDS):
        pids = supervisor.pids()
        for name, pid in known.items():
            if pid and pids[name] != pid:
                report(f"{name} ended and is started again: see {supervisor.log(name)}")
        known = pids


def _environment(settings: Settings, code_port: int) -> Mapping[str, str]:
    home = settings.resolved_home
    return {
        "LENS_HOME": str(home),
        "LENS_CODE_HOST": LOOPBACK,
        "LENS_CODE_PORT": str(code_port),
        "DAGSTER_HOME": str(home / "dagster"),
        # One insert for a run's events instead of one each.
        "DAGSTER_EVENT_BATCH_SIZE": "100",
        # Nobody calls the code server any more once the daemon has stopped.
        "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _url(bind: str, port: int) -> str:
    host = reachable_host(bind)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _serves(bind: str, port: int, path: str) -> bool:
    """Whether a web server answers there with 200."""
    connection = http.client.HTTPConnection(reachable_host(bind), port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
