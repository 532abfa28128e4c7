"""The embedded servers: one process owns them, and waits for users before it stops them."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from lens_pipeline.core.endpoints import (
    Endpoints,
    Services,
    StackError,
    endpoints_of,
    services_file,
)
from lens_pipeline.core.files import prepare_home, write_private
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor.embedded_postgres import Postgres
from lens_pipeline.supervisor.embedded_valkey import Valkey
from lens_pipeline.supervisor.ownership import Lock, current_owner, owner_lock, try_own, users_lock
from lens_pipeline.supervisor.program import Program
from lens_pipeline.supervisor.supervisor import Supervisor

_POLL_SECONDS = 0.1
# A first start takes a few seconds.
_JOIN_SECONDS = 30


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Servers:
    """The embedded servers that `settings` need. Raises StackError."""

    def __init__(self, settings: Settings, *, broker: bool) -> None:
        home = settings.resolved_home
        self._postgres = None if settings.database_url else Postgres(home)
        self._valkey = Valkey(home) if broker and not settings.broker_url else None

    def programs(self) -> list[Program]:
        return [server.program() for server in (self._postgres, self._valkey) if server]

    def start(self, supervisor: Supervisor) -> None:
        """`supervisor` must know `programs()`. Raises as its `start`."""
        names = [program.name for program in self.programs()]
        if names:
            supervisor.start(*names)
        if self._postgres:
            self._postgres.create_databases()

    def services(self, command: str, *, ready: bool) -> Services:
        return Services(
            pid=os.getpid(),
            command=command,
            database_url=self._postgres and self._postgres.url("lens"),
            dagster_url=self._postgres and self._postgres.url("dagster"),
            broker_url=self._valkey and self._valkey.url,
            ready=ready,
        )


@contextlib.contextmanager
def running(
    settings: Settings,
    *,
    broker: bool,
    command: str,
    report: Callable[[str], None] = to_stderr,
) -> Iterator[Endpoints]:
    """Endpoints whose servers run until the end of the block. Raises StackError.

    Without `broker`, `broker_url` may be empty. Messages to others name `command` (after `lens`).
    """
    home = settings.resolved_home
    if settings.database_url and (settings.broker_url or not broker):
        yield endpoints_of(settings, None, broker=broker)
        return
    prepare_home(home)
    with owner_lock(home) as owner, users_lock(home) as users:
        services = _join(settings, owner, users, command)
        if services:
            yield endpoints_of(settings, services, broker=broker)
        else:
            with _own(settings, users, broker=broker, command=command, report=report) as endpoints:
                yield endpoints


def _join(settings: Settings, owner: Lock, users: Lock, command: str) -> Services | None:
    """Another owner's services, with the users' lock held; None: we own them."""
    home = settings.resolved_home
    deadline = time.monotonic() + _JOIN_SECONDS
    while not try_own(owner, command):
        if users.try_shared():
            services = Services.read(home)
            if services and services.ready:
                return services
            users.release()
        if time.monotonic() > deadline:
            raise StackError(
                f"{current_owner(owner)} at {home} is still starting or stopping"
                f" after {_JOIN_SECONDS} s: try again later"
            )
        time.sleep(_POLL_SECONDS)
    return None


@contextlib.contextmanager
def _own(
    settings: Settings,
    users: Lock,
    *,
    broker: bool,
    command: str,
    report: Callable[[str], None],
) -> Iterator[Endpoints]:
    home = settings.resolved_home
    services_file(home).unlink(missing_ok=True)
    orphans.sweep(home, report)
    # Commands that join may need Valkey, which starts in 0.1 s.
    servers = Servers(settings, broker=broker or Valkey.is_installed())
    with Supervisor(home, servers.programs()) as supervisor:
        servers.start(supervisor)
        services = servers.services(command, ready=True)
        write_private(services_file(home), services.to_json())
        try:
            yield endpoints_of(settings, services, broker=broker)
        finally:
            try:
                _await_users(users, report)
            finally:
                services_file(home).unlink(missing_ok=True)


def _await_users(users: Lock, report: Callable[[str], None]) -> None:
    """Take the users' lock, so that no process joins."""
    if users.try_exclusive():
        return
    report("waiting for other `lens` commands that use the servers started here (Ctrl-C: stop)")
    while not users.try_exclusive():
        time.sleep(_POLL_SECONDS)
