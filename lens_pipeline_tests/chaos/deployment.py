"""The pipeline under test: `lens up` and one more worker, with servers that can be broken."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import sqlalchemy as sa

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.ports import free_port
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline_tests.chaos.clock import Clock
from lens_pipeline_tests.chaos.disk import SmallDisk
from lens_pipeline_tests.chaos.proxy import FaultyProxy
from lens_pipeline_tests.support.servers import HostileServer, SeaweedServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.stack import Stack

_SETTINGS = {
    "LENS_BACKFILL_CRON": "* * * * *",
    "LENS_BATCH_SIZE": "5",
    "LENS_PREVIEW_CONCURRENCY": "2",
    "LENS_FETCH_TIMEOUT_SECONDS": "20",
    "LENS_ENCODE_IDLE_SECONDS": "20",
    "LENS_ALERT_URLS": "",
}
_STOP_SECONDS = 60
# Of `lens up`, some of whose processes may be frozen meanwhile.
_STOP_SECONDS_WITH_FAULTS = 180
# A service manager's pause before it starts a worker again.
_AGAIN_SECONDS = 2.0
# None of them is UTC, one differs from it by part of an hour.
_ZONES = ("America/New_York", "Europe/Moscow", "Asia/Kathmandu", "Pacific/Auckland")


class Deployment:
    """One site; everything in it may be killed, and is started again as an operator would."""

    def __init__(
        self, directory: Path, store: SeaweedServer, sources: HostileServer, rng: random.Random
    ) -> None:
        self.directory = directory
        self.store = store
        self.sources = sources
        self.clock = Clock(directory)
        self.disk = SmallDisk(directory / "home" / "scratch")
        address = urlsplit(store.endpoint)
        self.store_proxy = FaultyProxy((address.hostname or "", address.port or 0), rng)
        self.source_proxy = FaultyProxy(("127.0.0.1", sources.port), rng)
        self.away_proxy = FaultyProxy(("127.0.0.1", sources.port), rng, is_away=True)
        self._zone, worker_zone = rng.sample(_ZONES, 2)
        self._worker_environment = {"TZ": worker_zone}
        self.stack = Stack(
            directory / "home",
            **_SETTINGS,
            LENS_STORE_URL=f"s3://{store.bucket}",
            LENS_S3_ENDPOINT=self.store_proxy.url,
        )
        self.stack.program = ("-m", "lens_pipeline.cli")
        self.stack.environment |= {
            **store.environment,
            **self.clock.environment,
            "TZ": self._zone,
        }
        os.environ.update(store.environment)
        self._worker: subprocess.Popen[bytes] | None = None
        self._commands: list[subprocess.Popen[bytes]] = []
        self._worker_ended_at = 0.0
        self._seen: set[psutil.Process] = set()

    @property
    def site(self) -> Site:
        """Raises StackError while nothing runs."""
        endpoints = self.stack.pipeline.endpoints
        return Site(endpoints.database_url, endpoints.dagster_url, self.directory)

    def start(self) -> None:
        self.stack.start()
        if self._worker is None:
            self._set_time_zone()
            self._start_worker()

    def _set_time_zone(self) -> None:
        """As on a database server whose host is not set to UTC."""
        for url in (self.site.database_url, self.site.dagster_url):
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with engine.begin() as connection:
                database = connection.dialect.identifier_preparer.quote(engine.url.database or "")
                connection.execute(
                    sa.text(f"ALTER DATABASE {database} SET timezone = '{self._zone}'")
                )

    def _start_worker(self) -> None:
        """As on another host: it has the settings and nothing else, and a clock of its own."""
        endpoints = self.stack.pipeline.endpoints
        broker = self.stack.settings.resolved_home / "services.json"
        environment = {
            **self.stack.environment,
            **endpoints.environment(),
            **self._worker_environment,
            "LENS_BROKER_URL": _broker_url(broker),
            "LENS_HOME": str(self.directory / "other"),
            "LENS_API_PORT": str(free_port()),
        }
        for name in self.clock.environment:
            environment.pop(name)
        with (self.directory / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lens_pipeline.cli", "worker"),
                    *("--queue", "previews", "--concurrency", "1"),
                ],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def keep_running(self) -> None:
        """What a service manager does: start again what has ended."""
        if self._worker is not None and self._worker.poll() is not None:
            if not self._worker_ended_at:
                self._worker_ended_at = time.monotonic()
            elif time.monotonic() > self._worker_ended_at + _AGAIN_SECONDS:
                self._worker_ended_at = 0.0
                with suppress(StackError):
                    self._start_worker()
        if not self.stack.is_running:
            self.stack.start()

    def await_end_of_stop(self) -> None:
        """If `lens up` was told to stop, wait for it: from now on it stays."""
        if self.stack.is_stopping:
            self.stack.await_stop(_STOP_SECONDS_WITH_FAULTS)

    def begin_backfill(self) -> None:
        """`lens backfill`, which makes what is missing in its own process."""
        with (self.directory / "backfill.log").open("ab") as log:
            command = [sys.executable, "-m", "lens_pipeline.cli", "backfill"]
            self._commands.append(
                subprocess.Popen(
                    command,
                    cwd=self.directory,
                    env=self.stack.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )

    def partitions(self, derivative: Derivative) -> list[str]:
        return [
            row.partition
            for row in self.stack.dagster(
                "SELECT partition FROM dynamic_partitions"
                f" WHERE partitions_def_name = '{derivative.partition_set}'"
            )
        ]

    def running_commands(self) -> list[str]:
        return [
            f"lens backfill runs as {command.pid}"
            for command in self._commands
            if command.poll() is None
        ]

    def tracebacks(self) -> list[str]:
        """The last line of each error that a command did not foresee."""
        log = self.directory / "backfill.log"
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return [f"lens backfill: {part[:500]}" for part in said.split("Traceback (most")[1:]]

    def roots(self) -> list[psutil.Process]:
        """`lens up`, the other worker and commands, where they live."""
        started = [*([self._worker] if self._worker else []), *self._commands]
        pids = [self.stack.pid, *(process.pid for process in started)]
        found = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def processes(self) -> list[psutil.Process]:
        """All of the product's, which are remembered: see `survivors`."""
        found = self.roots()
        for root in list(found):
            with suppress(psutil.NoSuchProcess):
                found += root.children(recursive=True)
        self._seen.update(found)
        return found

    def survivors(self) -> list[str]:
        """Whatever was ever seen and still runs, after everything was stopped."""
        left = []
        for process in self._seen:
            with suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        return left

    def stop(self) -> list[str]:
        """SIGTERM to both; what was wrong with their end."""
        wrong = []
        if self._worker is not None:
            self._worker.send_signal(signal.SIGTERM)
            status = self._worker.wait(_STOP_SECONDS)
            wrong += [f"the other worker ended with {status}"] if status else []
            self._worker = None
        status = self.stack.terminate()
        return wrong + ([f"lens up ended with {status}"] if status else [])

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
        for command in self._commands:
            command.kill()
            command.wait()
        self.stack.stop()


def _broker_url(services_file: Path) -> str:
    return json.loads(services_file.read_text(encoding="utf-8"))["broker_url"]


@contextmanager
def deployment(directory: Path, rng: random.Random) -> Iterator[Deployment]:
    """Servers and a deployment, nothing of which is left at the end."""
    (directory / "store").mkdir(parents=True)
    with ExitStack() as stack:
        store = stack.enter_context(SeaweedServer(directory / "store"))
        sources = stack.enter_context(HostileServer())
        made = Deployment(directory, store, sources, rng)
        stack.enter_context(made.store_proxy)
        stack.enter_context(made.source_proxy)
        stack.enter_context(made.away_proxy)
        stack.enter_context(made.disk)
        stack.callback(made.close)
        made.start()
        yield made
