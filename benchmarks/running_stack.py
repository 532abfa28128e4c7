"""A real `lens up` in a temporary home, and what benchmarks do to it: add rows, await previews."""

import datetime as dt
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Self

import psutil
import sqlalchemy as sa

from lens_pipeline import settings
from lens_pipeline.core.endpoints import Services, resolve
from lens_pipeline.core.ports import free_port
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.derivatives.registry import PHOTO_ORIGINAL, PREVIEW
from lens_pipeline.settings import Settings
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.supervisor import roles

USER = "bench"

_START_SECONDS = 180.0
_STOP_SECONDS = 90.0
# A preview is awaited so long for each file; only a pipeline that has stopped takes longer.
_SECONDS_A_FILE = 5.0
_POLL_SECONDS = 0.1
# The HTTP app follows 100,000 events in 45 s; at rest it uses 3 % of a core.
_HTTP_APP = ["lens:", "api"]
_IDLE_SECONDS, _IDLE_SAMPLE_SECONDS, _IDLE_PERCENT = 600.0, 10.0, 8.0
# Runs at once times this many rows, one by one, put every worker process to work once.
_WARM_UP_ROUNDS = 3


class RunningStack:
    """The stack, and the pipeline as seen from this process."""

    def __init__(self, process: psutil.Process, pipeline: Pipeline, home: Path) -> None:
        self.home = home
        self.pipeline = pipeline
        self.application = sa.create_engine(pipeline.endpoints.database_url)
        self.dagster = sa.create_engine(
            pipeline.endpoints.dagster_url, isolation_level="AUTOCOMMIT"
        )
        self._process = process

    @property
    def settings(self) -> Settings:
        return self.pipeline.settings

    def processes(self) -> list[psutil.Process]:
        """All of the stack's processes."""
        return [self._process, *self._process.children(recursive=True)]

    def programs(self) -> list[psutil.Process]:
        """The first process of each of the stack's programs."""
        (supervisor,) = self._process.children()
        return supervisor.children()

    def stop_program(self, name: str) -> None:
        """Stop one of its programs for good, as people do."""
        socket = f"unix://{self.home}/run/supervisor.sock"
        control = [sys.executable, "-m", "supervisor.supervisorctl", "-s", socket]
        # Exits with 3 if some program does not run, as they say.
        status = subprocess.run([*control, "status"], check=False, capture_output=True, text=True)
        (full_name,) = re.findall(rf"^\S+:{name}\b", status.stdout, re.MULTILINE)
        subprocess.run([*control, "stop", full_name], check=True, stdout=subprocess.DEVNULL)

    @property
    def environment(self) -> dict[str, str]:
        """What `lens up` adds to its own for its programs."""
        return roles.environment(self.settings)

    def store_files(self, files: Sequence[Path]) -> list[str]:
        """Put sources into the object store; returns their keys."""
        keys = [f"{USER}/uploads/{file.name}" for file in files]
        for key, file in zip(keys, files, strict=True):
            self.pipeline.store.write(key, file, content_type=content_type_of(key))
        return keys

    def add_rows(self, sources: Mapping[str, str], user: str = USER, kind: str = "photo") -> None:
        """Insert a user's finished photos or videos, source by id, in one transaction."""
        rows = [
            {"id": key, "user": user, "kind": kind, "source": source}
            for key, source in sources.items()
        ]
        with self.application.begin() as connection:
            connection.execute(_INSERT, rows)

    def finished_at(self, ids: Sequence[str]) -> dict[str, dt.datetime]:
        """When the application finished each row."""
        with self.application.connect() as connection:
            return {row.id: row.updated_at for row in connection.execute(_FINISHED, {"ids": ids})}

    def materialized_at(
        self, ids: Sequence[str], asset: str = PREVIEW.asset
    ) -> dict[str, dt.datetime]:
        """When the asset of each of `ids` was first materialized; others are absent."""
        values = {"asset": json.dumps([asset]), "ids": list(ids)}
        with self.dagster.connect() as connection:
            rows = connection.execute(_MATERIALIZED, values)
            return {row.partition: row.at.replace(tzinfo=dt.UTC) for row in rows}

    def await_previews(self, ids: Sequence[str]) -> None:
        """Wait until the event log has a materialization of each. Raises TimeoutError."""
        self.await_all(ids, PREVIEW.asset)

    def await_originals(self, ids: Sequence[str]) -> None:
        """As `await_previews`; a run keeps originals after its previews."""
        self.await_all(ids, PHOTO_ORIGINAL.asset)

    def await_all(self, ids: Sequence[str], asset: str) -> None:
        """As `await_previews`, of any asset."""
        deadline = time.monotonic() + 60 + _SECONDS_A_FILE * len(ids)
        while len(made := self.materialized_at(ids, asset)) < len(ids):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(made)} of {len(ids)} of {asset} were made")
            time.sleep(_POLL_SECONDS)

    def await_no_runs(self) -> None:
        """Wait until every run has ended, so that the next measurement begins with none."""
        while self._unfinished_runs():
            time.sleep(_POLL_SECONDS)

    def await_idle(self) -> None:
        """Wait until the HTTP app has followed a past that was filled in at once.

        Raises TimeoutError.
        """
        (app,) = (process for process in self.processes() if process.cmdline()[:2] == _HTTP_APP)
        deadline = time.monotonic() + _IDLE_SECONDS
        while app.cpu_percent(_IDLE_SAMPLE_SECONDS) > _IDLE_PERCENT:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the HTTP app is still busy after {_IDLE_SECONDS:.0f} s")

    def terminate_runs(self) -> None:
        """End every run that has not ended, as the web UI does."""
        with self.dagster.connect() as connection:
            runs = list(connection.execute(_UNFINISHED_IDS).scalars())
        query = "mutation ($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }"
        body = json.dumps({"query": query, "variables": {"ids": runs}})
        port = self.settings.dagster_port
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
            answer = json.load(connection.getresponse())
        if "errors" in answer:
            raise RuntimeError(f"the runs cannot be terminated: {answer['errors']}")

    def warm_up(self, sources: Sequence[str]) -> None:
        """Let every worker process execute runs, as they have in a stack that is up for a while."""
        for number in range(_WARM_UP_ROUNDS):
            batch = self.settings.batch_size
            count = batch * self.settings.preview_concurrency
            ids = [f"warm-{number}-{index}" for index in range(count)]
            self.add_rows({key: sources[i % len(sources)] for i, key in enumerate(ids)})
            self.await_previews(ids)
        self.await_no_runs()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the supervised processes from running meanwhile, so that they take no CPU time.

        The supervisor goes on: it may not look dead to `lens up`.
        """
        supervisor = self._process.children()
        members = set(self._process.children(recursive=True)).difference(supervisor)
        try:
            for process in members:
                process.suspend()
            yield
        finally:
            for process in members:
                process.resume()

    def close(self) -> None:
        self.application.dispose()
        self.dagster.dispose()
        self.pipeline.catalog.close()
        self.pipeline.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unfinished_runs(self) -> int:
        with self.dagster.connect() as connection:
            return connection.execute(_UNFINISHED).scalar_one()


@contextmanager
def running_stack(variables: Mapping[str, str] | None = None) -> Iterator[RunningStack]:
    """`lens up` with these LENS_… settings and no others; SIGTERM ends it.

    After an error its home stays, for the logs.
    """
    home = Path(tempfile.mkdtemp(prefix="lens-bench-"))
    try:
        with _running(home, variables or {}) as stack:
            yield stack
    except Exception as error:
        error.add_note(f"the logs of the stack are in {home}")
        raise
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _running(home: Path, variables: Mapping[str, str]) -> Iterator[RunningStack]:
    with ExitStack() as stack:
        ports = {name: str(free_port()) for name in ("LENS_DAGSTER_PORT", "LENS_API_PORT")}
        own = {"LENS_HOME": str(home), **ports, **variables}
        log = stack.enter_context((home / "up.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "lens_pipeline.cli", "up"],
            env=without_settings(os.environ) | own,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for the benchmark, which then stops the stack.
            start_new_session=True,
        )
        stack.callback(_stop, process)
        _await_ready(process, home)
        loaded, _ = settings.load(own, dotenv=None)
        pipeline = connect(loaded, resolve(loaded))
        yield stack.enter_context(RunningStack(psutil.Process(process.pid), pipeline, home))


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without anything that configures this product or Dagster."""
    prefixes = ("LENS_", "DAGSTER_", "PREVIEWS_WORKER_")
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}


def _await_ready(process: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        services = Services.read(home)
        if services and services.ready:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"lens up did not start:\n{(home / 'up.log').read_text()[-2000:]}")
        time.sleep(_POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_INSERT = sa.text(
    "INSERT INTO generations (id, user_id, type, status, asset_url, created_at, updated_at)"
    " VALUES (:id, :user, :kind, 'success', :source, clock_timestamp(), clock_timestamp())"
)
_FINISHED = sa.text("SELECT id, updated_at FROM generations WHERE id = ANY(:ids)")
_MATERIALIZED = sa.text(
    'SELECT partition, min("timestamp") AS at FROM event_logs'
    " WHERE asset_key = :asset AND dagster_event_type = 'ASSET_MATERIALIZATION'"
    "   AND partition = ANY(:ids) GROUP BY partition"
)
_UNFINISHED = sa.text(
    "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)
_UNFINISHED_IDS = sa.text(
    "SELECT run_id FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
)
