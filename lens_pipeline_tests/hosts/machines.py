"""A site on three hosts: services, planning and store on one, workers on two others."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lens_pipeline.core.endpoints import resolve
from lens_pipeline.core.files import prepare_home
from lens_pipeline.core.ports import LOOPBACK
from lens_pipeline.derivatives import pipeline
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.engine.instance import write_instance, write_workspace
from lens_pipeline.engine.liveness import code_socket
from lens_pipeline.settings import PREFIX, load
from lens_pipeline.supervisor.embedded_postgres import Postgres
from lens_pipeline.supervisor.embedded_valkey import Valkey
from lens_pipeline.supervisor.services import running
from lens_pipeline.supervisor.up import programs
from lens_pipeline_tests.hosts.namespaces import Host, Network
from lens_pipeline_tests.support.servers import SeaweedServer
from lens_pipeline_tests.support.site import Site, eventually

_STOP_SECONDS = 60


class Machines:
    """The three hosts, and what runs on them."""

    def __init__(self, home: Path, network: Network, stack: ExitStack) -> None:
        self.home = home
        self.network = network
        self._stack = stack
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.services = network.add("services")
        self.workers = [network.add("one"), network.add("two")]
        home.mkdir()
        self._make_databases()
        self.store = stack.enter_context(
            SeaweedServer(home, self.services.address, self.services.within)
        )
        self.environment = self._environment()

    def begin(self, environment: pytest.MonkeyPatch) -> None:
        """Start everything but the workers; this process gets the same settings."""
        for name, value in self.environment.items():
            environment.setenv(name, value)
        self.start_postgres()
        self.start_broker()
        settings = load(self.environment, dotenv=None)[0]
        self.pipeline: Pipeline = pipeline.connect(settings, resolve(settings))
        endpoints = self.pipeline.endpoints
        self.site = Site(endpoints.database_url, endpoints.dagster_url, self.home)
        assert self.site.lens("migrate").code == 0
        self._stack.callback(self.site.close)
        prepare_home(settings.resolved_home)
        directory = write_instance(settings)
        write_workspace(settings)
        self._stack.callback(shutil.rmtree, code_socket(settings.resolved_home).parent)
        for program in programs(settings, directory):
            if program.name in ("code", "daemon"):
                added = {**self.environment, **program.environment}
                self._start(program.name, self.services, program.argv, added)

    def _make_databases(self) -> None:
        environment = {"LENS_HOME": str(self.home), "LENS_API_PORT": "1"}
        with running(load(environment, dotenv=None)[0], broker=False, command="tests"):
            pass
        rules = self.home / "postgres" / "data" / "pg_hba.conf"
        rules.write_text(rules.read_text() + "host all all 10.0.0.0/8 scram-sha-256\n")
        self._postgres, self._valkey = Postgres(self.home), Valkey(self.home)

    def _environment(self) -> dict[str, str]:
        def reached(url: str) -> str:
            return url.replace(LOOPBACK, self.services.address)

        return {
            "LENS_HOME": str(self.home / "planning"),
            "LENS_DATABASE_URL": reached(self._postgres.url("lens")),
            "LENS_DAGSTER_URL": reached(self._postgres.url("dagster")),
            "LENS_BROKER_URL": reached(self._valkey.url),
            "LENS_STORE_URL": f"s3://{self.store.bucket}",
            "LENS_S3_ENDPOINT": self.store.endpoint,
            "LENS_BATCH_SIZE": "4",
            "LENS_GRACE_SECONDS": "5",
            "LENS_THREADS": "1",
            "LENS_BACKFILL_CRON": "* * * * *",
            **self.store.environment,
        }

    def start_postgres(self) -> None:
        address = f"--listen_addresses={self.services.address},{LOOPBACK}"
        argv = [
            address if part.startswith("--listen_addresses") else part
            for part in self._postgres.program().argv
        ]
        self._start("postgres", self.services, argv, {})
        self._await(self._postgres.url(""))

    def start_broker(self) -> None:
        program = self._valkey.program()
        settings = self.home / "valkey" / "valkey.conf"
        settings.write_text(settings.read_text().replace(f"bind {LOOPBACK}", "bind 0.0.0.0"))
        self._start("broker", self.services, program.argv, {})
        self._await(self._valkey.url)

    def _await(self, url: str) -> None:
        port = urlsplit(url).port

        def accepts() -> bool:
            with suppress(OSError):
                socket.create_connection((self.services.address, port), timeout=1).close()
                return True
            return False

        eventually(accepts, 30, f"a server at port {port}")

    def start_worker(self, host: Host, **settings: str) -> None:
        """`lens worker` on a host that has the settings and nothing else."""
        environment = {**self.environment, "LENS_HOME": str(self.home / host.name), **settings}
        argv = [sys.executable, "-m", "lens_pipeline.cli", "worker"]
        argv += ["--queue", "previews", "--concurrency", "2"]
        self._start(host.name, host, argv, environment)

    def _start(
        self, name: str, host: Host, argv: list[str] | tuple[str, ...], settings: dict[str, str]
    ) -> None:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith((PREFIX, "DAGSTER_", "AWS_"))
        }
        directory = self.home / ("valkey" if name == "broker" else "")
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*host.within, *argv],
                cwd=directory,
                env={**kept, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the program of that name, or the worker of that host, and wait; its status."""
        process = self._processes.pop(name)
        process.send_signal(number)
        return process.wait(_STOP_SECONDS)

    def forget(self, name: str) -> None:
        """Its process was killed."""
        self._processes.pop(name).wait(_STOP_SECONDS)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
