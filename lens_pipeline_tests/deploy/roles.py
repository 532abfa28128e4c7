"""The pipeline as separate processes, each as a container or a unit runs it."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg2

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.core.ports import free_port
from lens_pipeline.engine.liveness import problem_of
from lens_pipeline.settings import PREFIX, Settings, load
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.support.servers import SeaweedServer
from lens_pipeline_tests.support.site import eventually

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
COMMANDS = {
    "code": ("run", "code"),
    "dagster": ("run", "dagster"),
    "daemon": ("run", "daemon"),
    "api": ("run", "api"),
    "worker-previews": ("worker", "--queue", "previews", "--concurrency", "1"),
}
START_SECONDS = 120
GRACE_SECONDS = 5
STOP_SECONDS = GRACE_SECONDS + 30

# How a role is started: arguments of `lens` and its whole environment.
Launch = Callable[[Sequence[str], Mapping[str, str], Path], subprocess.Popen[bytes]]


@dataclass
class Roles:
    """Every role on databases, a broker and an S3 store that it knows by URL alone."""

    directory: Path
    launch: Launch
    endpoints: Endpoints
    store: SeaweedServer
    ports: Mapping[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("code", "dagster", "api")}
    )
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, role: str) -> dict[str, str]:
        """A home for each: nothing is shared but what has a URL."""
        return {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith((PREFIX, "DAGSTER_", "PREVIEWS_WORKER_"))
            },
            **self.endpoints.environment(),
            **self.store.environment,
            "LENS_HOME": str(self.directory / role),
            "LENS_STORE_URL": f"s3://{self.store.bucket}",
            "LENS_S3_ENDPOINT": self.store.endpoint,
            "LENS_CODE_PORT": str(self.ports["code"]),
            "LENS_DAGSTER_PORT": str(self.ports["dagster"]),
            "LENS_API_PORT": str(self.ports["api"]),
            "LENS_API_TOKEN": TOKEN,
            "LENS_TRUSTED_PROXIES": "127.0.0.1",
            "LENS_FETCH_ALLOW_HOSTS": "localhost",
            "LENS_GRACE_SECONDS": str(GRACE_SECONDS),
            "LENS_PREVIEW_CONCURRENCY": "1",
        }

    def settings(self, role: str) -> Settings:
        environment = self.environment(role)
        lens = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        return load(lens, dotenv=None)[0]

    def run(self, role: str, *arguments: str) -> tuple[int, str]:
        """A short command, with the settings of that role: its exit status, and what it says."""
        log = self.directory / f"{role}-command.log"
        status = self.launch(arguments, self.environment(role), log).wait(START_SECONDS)
        return status, log.read_text(errors="replace")

    def start(self) -> None:
        """All of them at once, each until it says that it lives."""
        for role in COMMANDS:
            self._launch(role)
        for role in COMMANDS:
            self._await_life(role)

    def restart(self, role: str) -> int:
        """SIGTERM to one of them, and start it again; how it ended."""
        process = self.processes[role]
        process.terminate()
        status = process.wait(STOP_SECONDS)
        self._launch(role)
        self._await_life(role)
        return status

    def _launch(self, role: str) -> None:
        launched = self.launch(COMMANDS[role], self.environment(role), self._log(role))
        self.processes[role] = launched

    def _await_life(self, role: str) -> None:
        eventually(lambda: self.lives(role), START_SECONDS, role, every=0.3)

    def lives(self, role: str) -> bool:
        assert self.processes[role].poll() is None, self._log(role).read_text(errors="replace")
        return problem_of(role, self.settings(role)) is None

    def add_photo(self, row_id: str, url: str) -> None:
        """A finished row, as the site writes it."""
        connection = psycopg2.connect(self.endpoints.database_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO generations (id, user_id, type, status, asset_url)"
                    " VALUES (%s, 'u1', 'photo', 'success', %s)",
                    (row_id, url),
                )
        finally:
            connection.close()

    def generation(self, row_id: str) -> dict[str, Any]:
        """As the HTTP API tells of it."""
        url = f"http://127.0.0.1:{self.ports['api']}/api/generations/{row_id}"
        return httpx.get(url, headers=BEARER, timeout=20).json()

    def times_made(self) -> Counter[str]:
        """How often each preview was made, by id."""
        connection = psycopg2.connect(self.endpoints.dagster_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT partition FROM event_logs"
                    " WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
                    """ AND asset_key = '["preview"]'"""
                )
                return Counter(partition for (partition,) in cursor.fetchall())
        finally:
            connection.close()

    def await_ready(self, row_id: str) -> dict[str, Any]:
        eventually(
            lambda: self.generation(row_id).get("status") == "ready", 60, f"the preview of {row_id}"
        )
        return self.generation(row_id)

    def stop(
        self, terminate: Callable[[subprocess.Popen[bytes]], None] = subprocess.Popen.terminate
    ) -> dict[str, int]:
        """SIGTERM to all at once, as compose and systemd do; the exit statuses."""
        for process in self.processes.values():
            terminate(process)
        statuses = {role: p.wait(STOP_SECONDS) for role, p in self.processes.items()}
        self.processes.clear()
        return statuses

    def kill(self) -> None:
        """Leave nothing behind, whatever went wrong."""
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()

    def _log(self, role: str) -> Path:
        return self.directory / f"{role}.log"


@contextmanager
def roles_on_servers(directory: Path, launch: Launch) -> Iterator[Roles]:
    """Servers of our own for `Roles`; the roles are not started yet."""
    (directory / "store").mkdir()
    servers = Settings(home=directory / "servers")
    with (
        running(servers, broker=True, command="tests") as endpoints,
        SeaweedServer(directory / "store") as store,
    ):
        roles = Roles(directory, launch, endpoints, store)
        try:
            yield roles
        finally:
            roles.kill()
