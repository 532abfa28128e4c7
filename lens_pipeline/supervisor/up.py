"""`lens up`: every process of one machine, from the first start to a clean stop."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Self

from lens_pipeline.core import files, ports
from lens_pipeline.core.endpoints import Endpoints, StackError, endpoints_of, services_file
from lens_pipeline.core.files import prepare_home, write_private
from lens_pipeline.core.ports import accepts_at, serves
from lens_pipeline.core.restarts import RestartLog
from lens_pipeline.engine import instance
from lens_pipeline.engine.liveness import code_socket
from lens_pipeline.errors import LensError
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor import orphans, roles
from lens_pipeline.supervisor.ownership import Lock, current_owner, owner_lock, try_own
from lens_pipeline.supervisor.program import Program
from lens_pipeline.supervisor.roles import Role
from lens_pipeline.supervisor.services import Servers
from lens_pipeline.supervisor.supervisor import Supervisor
from lens_pipeline.supervisor.supervisord import end_with

COMMAND = "up"

_POLL_SECONDS = 0.1
_WATCH_SECONDS = 1.0
_OWNER_SECONDS = 60
# Without progress. A disk may need as long for an import.
_START_SECONDS = 120
# A worker cancels its runs after their grace.
_CANCEL_SECONDS = 15

# The highest stops first: sources of runs, runs, then what they report to.
_DAEMON, _WORKER, _SERVER = 50, 40, 30


@dataclass(frozen=True)
class Stack:
    """Safe to use from any thread."""

    endpoints: Endpoints
    web_url: str  # the Dagster UI
    pages_url: str  # our own pages and API
    supervisor: Supervisor
    _stop: threading.Event = field(default_factory=threading.Event)

    def statuses(self) -> dict[str, str]:
        """Raises StackError: supervisord is gone."""
        return self.supervisor.statuses()

    def request_stop(self) -> None:
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Whether a stop was requested; waits at most `seconds`."""
        return self._stop.wait(seconds)


def up(
    settings: Settings,
    *,
    prepare: Callable[[Endpoints], None],
    on_ready: Callable[[Stack], None],
    report: Callable[[str], None],
) -> None:
    """Run everything until a signal or `request_stop`; `on_ready` is called after the start.

    `prepare` comes, in a fork, before the tables of the servers are needed. SIGINT, SIGTERM and
    SIGHUP stop everything in order; a second Ctrl-C kills. Main thread only.

    Raises StackError: something cannot be started, another `lens up` runs here, or the supervisor
    was lost. Nothing is left running.
    """
    home = settings.resolved_home
    prepare_home(home)
    with _Signals() as signals, owner_lock(home) as owner:
        try:
            _own(owner, home, report)
            services_file(home).unlink(missing_ok=True)
            orphans.sweep(home, report)
            ports.require_free("LENS_DAGSTER_PORT", settings.dagster_port, settings.bind)
            ports.require_free("LENS_API_PORT", settings.api_port, settings.bind)
            files.sweep(settings.scratch)
            roles.import_shared()
            _run(settings, signals, prepare=prepare, on_ready=on_ready, report=report)
        except KeyboardInterrupt:
            return


def programs(settings: Settings, config_dir: Path) -> list[Program]:
    """All but the servers; `config_dir` holds `workspace.yaml`. Raises StackError."""
    environment = roles.environment(settings)
    # Who reaches the code server runs code, and any user of the machine reaches a port.
    code = code_socket(settings.resolved_home)

    def server(name: str, role: Role, ready: Callable[[], bool]) -> Program:
        return Program(
            name,
            roles.arguments(role, settings, config_dir, ("--socket", str(code))),
            environment,
            is_module=True,
            priority=_SERVER,
            ready=ready,
            ready_timeout=_START_SECONDS,
            is_vital=role != "dagster",
        )

    def worker(queue: str, concurrency: int) -> Program:
        return Program(
            f"worker-{queue}",
            ("lens_pipeline.cli", "worker", "--queue", queue, "--concurrency", str(concurrency)),
            environment,
            is_module=True,
            priority=_WORKER,
            stop_seconds=settings.grace_seconds + _CANCEL_SECONDS,
        )

    bind = settings.bind
    return [
        server("code", "code", lambda: accepts_at(code)),
        worker("previews", settings.preview_concurrency),
        worker("masters", settings.master_concurrency),
        server("web", "dagster", lambda: serves(bind, settings.dagster_port, "/server_info")),
        server("api", "api", lambda: serves(bind, settings.api_port, "/api/health/live")),
        Program(
            "daemon",
            roles.arguments("daemon", settings, config_dir),
            environment,
            is_module=True,
            priority=_DAEMON,
            # Without it, the daemon shows an error and waits.
            needs=("code",),
            stop_seconds=20,
        ),
    ]


class _Signals:
    """The first signal to stop raises KeyboardInterrupt; a later Ctrl-C asks for hurry.

    Python drops what a finalizer raises, so `is_stopping` must be asked, too.
    """

    _STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.is_stopping = False
        self.in_hurry = False
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in self._STOP:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.is_stopping:
            self.in_hurry = self.in_hurry or number == signal.SIGINT
            return
        self.is_stopping = True
        raise KeyboardInterrupt


def _own(owner: Lock, home: Path, report: Callable[[str], None]) -> None:
    """Become the owner of `home`, after a short command. Raises StackError."""
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
    config_dir = instance.write_instance(settings)
    instance.write_workspace(settings)
    servers = Servers(settings, broker=True)
    starting = servers.services(COMMAND, ready=False)
    endpoints = endpoints_of(settings, starting, broker=True)
    product = programs(settings, config_dir)
    everything = [*servers.programs(), *product]
    restarts = RestartLog(home, [program.name for program in everything])
    json_logs = settings.log_format == "json"
    with Supervisor(home, everything, lambda: signals.in_hurry, json_logs=json_logs) as supervisor:
        try:
            servers.start(supervisor)
            # `prepare` can resolve endpoints now; `lens` commands wait for `ready`.
            write_private(services_file(home), starting.to_json())
            call_in_fork(lambda: prepare(endpoints))
            ready = servers.services(COMMAND, ready=True)
            write_private(services_file(home), ready.to_json())
            report(f"starting {', '.join(program.name for program in product)}")
            for problem in supervisor.start(*(program.name for program in product)):
                report(f"going on without it: {problem}")
            web_url = _url(settings.bind, settings.dagster_port)
            pages_url = _url(settings.bind, settings.api_port)
            stack = Stack(endpoints, web_url, pages_url, supervisor)
            on_ready(stack)
            _watch(stack, signals, restarts, report)
        finally:
            signals.is_stopping = True
            services_file(home).unlink(missing_ok=True)
            report("stopping")


def call_in_fork(work: Callable[[], None]) -> None:
    """Call `work`: what it writes of the memory shared with all forks, 20 MiB, goes with it.

    Raises LensError, as it does. Raises StackError: it failed otherwise, and has said how.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_error, args=(os.getpid(), work, sender))
    child.start()
    sender.close()
    try:
        error = receiver.recv()
    except EOFError:
        raise StackError("what comes before the start has failed") from None
    finally:
        child.kill()
        child.join()
        receiver.close()
    if error is not None:
        raise error


def _send_error(parent: int, work: Callable[[], None], sender: Connection) -> None:
    # Its files include the parent's lock.
    end_with(parent, signal.SIGKILL)
    # The parent ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    error = None
    try:
        work()
    except LensError as caught:
        error = caught
    sender.send(error)


def _watch(
    stack: Stack, signals: _Signals, restarts: RestartLog, report: Callable[[str], None]
) -> None:
    """Report and count programs that ended by themselves."""
    known = stack.supervisor.starts()
    while not signals.is_stopping and not stack.wait(_WATCH_SECONDS):
        starts = stack.supervisor.starts()
        for name in (name for name, start in starts.items() if start != known[name]):
            restarts.note(name)
            report(f"{name} ended and is started again: see {stack.supervisor.log(name)}")
        known = starts


def _url(bind: str, port: int) -> str:
    host = ports.reachable_host(bind)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
