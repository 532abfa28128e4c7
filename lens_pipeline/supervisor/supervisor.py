"""Keeps the processes of one machine running, with supervisord as a child process."""

import contextlib
import http.client
import math
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import (
    make_socket_directory,
    private_directory,
    socket_path,
    write_private,
)
from lens_pipeline.supervisor import orphans, supervisord
from lens_pipeline.supervisor.program import Program
from lens_pipeline.supervisor.supervisord import Supervisord

_POLL_SECONDS = 0.05
_BOOT_SECONDS = 120
_RPC_SECONDS = 10
# A start with this many crashes fails before its timeout.
_MAX_CRASHES = 3
# Of a processor core. What takes less waits for something; on a machine under load it is a few.
_PROGRESS_SHARE = 0.01
_PROGRESS_LOOK_SECONDS = 1.0
_TAIL_LINES = 20

_CONFIG = """\
[supervisord]
logfile = logs/supervisord.log
logfile_maxbytes = 10MB
logfile_backups = 3
pidfile = run/supervisord.pid
silent = true
nocleanup = true
minfds = {minfds}
minprocs = 1
{user}
[unix_http_server]
file = {socket}
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

# After n crashes supervisord waits n seconds; it counts anew after `startsecs`.
_PROGRAM = """
[program:{name}]
command = {command}
autostart = false
autorestart = true
startsecs = 5
startretries = 1000000
stopsignal = {stop_signal}
stopwaitsecs = {stop_seconds}
killasgroup = true
redirect_stderr = true
stdout_logfile = logs/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 3
"""

_GROUP = """
[group:{group}]
programs = {names}
priority = {priority}
"""


@dataclass
class _Start:
    """Times are monotonic, in seconds."""

    begun: float = field(default_factory=time.monotonic)
    progressed: float = field(default_factory=time.monotonic)
    looked: float = 0.0
    cpu_seconds: float = 0.0
    # Of its processes, in seconds since the epoch.
    starts: set[int] = field(default_factory=set)


class Supervisor:
    """Keeps `programs` running until the end of the `with` block. Raises StackError on entering.

    supervisord stops everything when the thread that entered ends, as Linux tells of no other end
    of a parent. While `hurry()` is true, `stop` kills.
    """

    def __init__(
        self,
        home: Path,
        programs: Iterable[Program],
        hurry: Callable[[], bool] | None = None,
        *,
        json_logs: bool = False,
    ) -> None:
        self._home = home
        self._json_logs = json_logs
        self._programs = {program.name: program for program in programs}
        # An upper bound: programs of one priority stop together.
        self._stop_seconds = sum(program.stop_seconds for program in self._programs.values())
        self._hurry = hurry or (lambda: False)
        self._ready: set[str] = set()
        self._daemon: Supervisord | None = None
        self._socket = socket_path(home, "supervisor.sock")

    def __enter__(self) -> Self:
        private_directory(self._home / "logs")
        run = private_directory(self._home / "run")
        make_socket_directory(self._socket.parent)
        orphans.note_stop_seconds(self._home, self._stop_seconds)
        write_private(run / "supervisord.conf", self._config())
        self._daemon = supervisord.start(self._home, self._programs, json_logs=self._json_logs)
        try:
            self._await_daemon()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *names: str) -> list[str]:
        """Start programs (default: all), each once its needs are ready, and wait.

        Returns what is wrong with those that are not vital. Raises StackError, with the end of the
        log: a vital one ends, or makes no progress.
        """
        problems: list[str] = []
        waiting = [self._programs[name] for name in names or self._programs]
        for program in waiting:
            missing = set(program.needs) - self._ready - {other.name for other in waiting}
            if missing:
                raise ValueError(f"{program.name} needs {', '.join(sorted(missing))}")
        starting: dict[str, _Start] = {}
        while waiting or starting:
            for program in [p for p in waiting if self._ready.issuperset(p.needs)]:
                waiting.remove(program)
                self._call("startProcess", self._full_name(program.name), False)
                starting[program.name] = _Start()
            infos = self._infos()
            for name, start in list(starting.items()):
                if self._status(name, infos[name]) == "RUNNING":
                    self._ready.add(name)
                    del starting[name]
                elif problem := self._problem(name, start, infos[name]):
                    if self._programs[name].is_vital:
                        raise StackError(f"{problem}\n{self._tail(name)}")
                    problems.append(f"{problem}: see {self.log(name)}")
                    del starting[name]
            if starting:
                time.sleep(_POLL_SECONDS)
        return problems

    def statuses(self) -> dict[str, str]:
        """RUNNING, STARTING (until ready), …. Raises StackError: supervisord is gone."""
        infos = self._infos()
        return {name: self._status(name, infos[name]) for name in self._programs}

    def pids(self) -> dict[str, int]:
        """0: no process. Raises as `statuses`."""
        return {name: info["pid"] for name, info in self._infos().items()}

    def starts(self) -> dict[str, int]:
        """When each was last started, in seconds since the epoch; 0: never. As `statuses`."""
        return {name: info["start"] for name, info in self._infos().items()}

    def stop(self) -> None:
        """Stop in order, each with its grace; then kill the rest."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        deadline = time.monotonic() + self._stop_seconds + _RPC_SECONDS
        while daemon.is_alive() and time.monotonic() < deadline and not self._hurry():
            self._request_stop(daemon)
            time.sleep(_POLL_SECONDS)
        daemon.send(signal.SIGKILL)
        daemon.join()
        orphans.kill(self._home)
        if self._socket.parent != self._home / "run":
            shutil.rmtree(self._socket.parent)

    def log(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"

    def _config(self) -> str:
        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        is_home = self._socket.parent == self._home / "run"
        text = _CONFIG.format(
            minfds=1024 if hard_limit == resource.RLIM_INFINITY else min(1024, hard_limit),
            user="user = root\n" if os.geteuid() == 0 else "",
            # The format interprets some characters of names.
            socket="run/supervisor.sock" if is_home else _escaped(str(self._socket)),
        )
        for program in self._programs.values():
            text += _PROGRAM.format(
                name=program.name,
                # supervisord requires some file there.
                command=_escaped(shlex.join((sys.executable, program.name))),
                stop_signal=program.stop_signal,
                stop_seconds=math.ceil(program.stop_seconds),
            )
        for priority in {program.priority for program in self._programs.values()}:
            members = [p for p in self._programs.values() if p.priority == priority]
            names = ",".join(program.name for program in members)
            text += _GROUP.format(group=members[0].group, names=names, priority=priority)
        return text

    def _await_daemon(self) -> None:
        deadline = time.monotonic() + _BOOT_SECONDS
        while self._daemon and self._daemon.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                _call(self._socket, "getState")
                return
            time.sleep(_POLL_SECONDS / 5)
        raise StackError(f"supervisord did not start\n{self._tail('supervisord-start')}")

    def _status(self, name: str, info: Mapping[str, Any]) -> str:
        if info["statename"] not in ("STARTING", "RUNNING"):
            return info["statename"]
        ready = self._programs[name].ready
        return "RUNNING" if ready is None or ready() else "STARTING"

    def _problem(self, name: str, start: _Start, info: Mapping[str, Any]) -> str | None:
        """Why it need not be waited for."""
        # An end may be too short to be seen; the next start stays.
        start.starts.add(info["start"])
        if len(start.starts - {0}) > _MAX_CRASHES:
            return f"{name} ends before it is ready"
        now, timeout = time.monotonic(), self._programs[name].ready_timeout
        if now - start.looked >= min(_PROGRESS_LOOK_SECONDS, timeout):
            start.looked, cpu_seconds = now, _cpu_seconds(info["pid"])
            if abs(cpu_seconds - start.cpu_seconds) >= _PROGRESS_SHARE * timeout:
                start.progressed, start.cpu_seconds = now, cpu_seconds
        if now - start.progressed > timeout:
            return f"{name} was not ready after {now - start.begun:.3g} s, and makes no progress"
        return None

    def _tail(self, name: str) -> str:
        lines: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"the end of {self.log(name)}:", *lines[-_TAIL_LINES:]])

    def _full_name(self, name: str) -> str:
        return f"{self._programs[name].group}:{name}"

    def _infos(self) -> dict[str, dict[str, Any]]:
        return {info["name"]: info for info in self._call("getAllProcessInfo")}

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return _call(self._socket, method, *arguments)
        except (OSError, http.client.HTTPException) as error:
            raise StackError(
                f"supervisord does not answer ({error}): see {self.log('supervisord')}"
            ) from None

    def _request_stop(self, daemon: Supervisord) -> None:
        # A call, even if it fails, makes supervisord look for ended children at once.
        try:
            with contextlib.suppress(xmlrpc.client.Fault):
                _call(self._socket, "shutdown")
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError):
            daemon.send(signal.SIGTERM)


def _cpu_seconds(pid: int) -> float:
    """Of a process and its children; 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    except psutil.Error:
        return 0.0
    return sum(one.user + one.system for one in times)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(str(host), timeout=_RPC_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_RPC_SECONDS)
        connection.sock.connect(str(self._path))
        return connection


def _call(path: Path, method: str, *arguments: object) -> Any:
    """For threads: each call has its own connection."""
    with xmlrpc.client.ServerProxy("http://localhost", _UnixTransport(path)) as proxy:
        return getattr(proxy.supervisor, method)(*arguments)


def _escaped(value: str) -> str:
    """% begins an expansion in supervisord's configuration."""
    return value.replace("%", "%%")
