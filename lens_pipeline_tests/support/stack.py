"""The real `lens up`, as a process of its own."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import sqlalchemy as sa

from lens_pipeline.core.endpoints import Services, endpoints_of, services_file
from lens_pipeline.core.ports import is_free
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.derivatives.registry import PREVIEW, Derivative
from lens_pipeline.derivatives.status import assess, statuses_of_id, usable
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.settings import PREFIX, load
from lens_pipeline.supervisor import orphans
from lens_pipeline_tests.support.site import Site, eventually

START_SECONDS = 180
GRACE_SECONDS = 5
# The grace, then cancelling and recording it, then the servers.
STOP_SECONDS = GRACE_SECONDS + 40

# By what of its command line each process is told.
# By the beginnings of titles.
_ROLES = {
    "lens: worker-previews": "worker",
    "[celeryd: previews": "worker",
    "lens: worker-masters": "worker-masters",
    "[celeryd: masters": "worker-masters",
    "lens: daemon": "daemon",
    "lens: web": "web",
    "lens: api": "api",
    "lens: code": "code",
    "lens: supervisord": "supervisor",
}


# Not where the product looks for free ports: one that is soon ours must not be taken meanwhile.
_PORTS = range(14_000, 19_000)


def _own_ports(count: int) -> list[int]:
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))
    return list(itertools.islice(filter(is_free, candidates), count))


class Stack:
    """One `lens up` with a home, a web port and settings of its own."""

    # What runs `lens up`; `-P`: what is beside the script is not imported.
    program: tuple[str, ...] = ("-P", str(Path(__file__).with_name("brisk_lens.py")))

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        self.port, self.api_port = _own_ports(2)
        self._log = home.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None
        self.is_stopping = False
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((PREFIX, "DAGSTER_", "PREVIEWS_WORKER_"))
        }
        self._own = {
            "LENS_HOME": str(home),
            "LENS_DAGSTER_PORT": str(self.port),
            "LENS_API_PORT": str(self.api_port),
            "LENS_STORE_URL": (home / "store").as_uri(),
            "LENS_FETCH_ALLOW_HOSTS": "localhost,127.0.0.1",
            "LENS_GRACE_SECONDS": str(GRACE_SECONDS),
            "LENS_PREVIEW_CONCURRENCY": "2",
            # Only what a test asks for.
            "LENS_CLIPS": "false",
            "LENS_PLAYABLE": "false",
            "LENS_BACKFILL_CRON": "0 0 1 1 *",
            **variables,
        }
        self.environment = inherited
        self.change()

    def change(self, **variables: str) -> None:
        """Settings from the next start on."""
        self._own |= variables
        self.environment |= self._own
        self.settings = load(self._own, dotenv=None)[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def site(self) -> Site:
        endpoints = self.pipeline.endpoints
        return Site(endpoints.database_url, endpoints.dagster_url, self.home / "store")

    def start(self) -> None:
        with self._log.open("ab") as log:
            begins = log.tell()
            self.is_stopping = False
            self._process = subprocess.Popen(
                [sys.executable, *self.program, "up"],
                cwd=self.home.parent,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self._process

        def ready() -> bool:
            said = self._log.read_bytes()[begins:].decode(errors="replace")
            assert process.poll() is None, said
            return "lens: ready:" in said

        try:
            eventually(ready, START_SECONDS, "the start")
        except BaseException:
            self.stop()
            raise

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to `lens up` alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """SIGTERM, and wait; the exit status."""
        self.begin_to_stop()
        return self.await_stop()

    def begin_to_stop(self) -> None:
        assert self._process is not None
        self.is_stopping = True
        self._process.send_signal(signal.SIGTERM)

    def await_stop(self, seconds: float = STOP_SECONDS) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self) -> None:
        """Leave nothing behind, whatever state it is in."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        orphans.kill(self.home)

    def processes(self) -> list[psutil.Process]:
        """Everything that was started from here, `lens up` itself apart."""
        return orphans.processes_of(self.home)

    def of(self, role: str) -> list[psutil.Process]:
        """The processes of one role, the parent before its children."""
        parents: dict[psutil.Process, int] = {}
        for process in self.processes():
            # A child may end while it is asked for its parent.
            with suppress(psutil.Error):
                if role_of(process) == role:
                    parents[process] = process.ppid()
        pids = {process.pid for process in parents}
        return sorted(parents, key=lambda process: parents[process] in pids)

    def lens(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lens_pipeline.cli", *arguments],
            cwd=self.home.parent,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @property
    def pipeline(self) -> Pipeline:
        services = None
        if services_file(self.home).exists():
            services = Services(**json.loads(services_file(self.home).read_text()))
        return connect(self.settings, endpoints_of(self.settings, services, broker=False))

    def states(self, derivative: Derivative = PREVIEW) -> dict[str, str]:
        """The state of the derivative of every finished row."""
        pipeline = self.pipeline
        rows = [
            row for page in pipeline.catalog.all_finished(derivative.kind) for row in usable(page)
        ]
        return {s.id: s.state.value for s in assess(pipeline, derivative, rows)}

    def status(self, row_id: str) -> dict[str, DerivativeStatus]:
        """What `lens status` says of each derivative of an id, by asset."""
        return {one.asset: one for one in statuses_of_id(self.pipeline, row_id)}

    def tally(self) -> Counter[str]:
        return Counter(self.states().values())

    def dagster(self, query: str) -> list[Any]:
        """Rows of Dagster's database."""
        engine = sa.create_engine(self.pipeline.endpoints.dagster_url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(sa.text(query)).all())

    def made(self, asset: str = PREVIEW.asset) -> Counter[str]:
        """How often each of this asset was made."""
        rows = self.dagster(
            "SELECT partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'"
            f""" AND asset_key = '["{asset}"]'"""
        )
        return Counter(row.partition for row in rows)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> Any:
        """What the web UI does; the data of the answer."""
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            body,
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        return answer["data"]

    def launch_backfill(self, asset: str, keys: Sequence[str]) -> str:
        """Make the keys anew by a backfill of the UI; its id."""
        mutation = """mutation ($params: LaunchBackfillParams!) {
                 launchPartitionBackfill(backfillParams: $params) { __typename
                   ... on LaunchBackfillSuccess { backfillId }
                   ... on PythonError { message } } }"""
        params = {"assetSelection": [{"path": [asset]}], "partitionNames": list(keys)}

        def launch() -> Any:
            # Soon after a start, Dagster loads the definitions anew, and answers with an error.
            with suppress(urllib.error.HTTPError):
                return self.graphql(mutation, {"params": params})["launchPartitionBackfill"]

        launched = eventually(launch, 10, "an answer of the UI")
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return launched["backfillId"]

    def run(self, run_id: str) -> Any:
        """Status, tags and materialized partitions of a run."""
        return self.graphql(
            """query ($id: ID!) { runOrError(runId: $id) { ... on Run {
                 status tags { key value }
                 assetMaterializations { partition } } } }""",
            {"id": run_id},
        )["runOrError"]

    def tick_backfill(self) -> None:
        """Evaluate the schedule of previews now, and launch its runs, as the UI's test of it."""
        answer = self.graphql(
            """mutation ($selector: ScheduleSelector!, $at: Float) {
                 scheduleDryRun(selectorData: $selector, timestamp: $at) { __typename
                   ... on DryRunInstigationTick { evaluationResult {
                     error { message } runRequests { tags { key value } } } }
                   ... on PythonError { message } } }""",
            {"selector": {**SELECTOR, "scheduleName": "backfill_previews"}, "at": 1_767_225_600.0},
        )["scheduleDryRun"]
        assert answer["__typename"] == "DryRunInstigationTick", answer
        result = answer["evaluationResult"]
        assert result["error"] is None, answer
        wanted = [
            {
                "selector": {**SELECTOR, "jobName": "previews"},
                "mode": "default",
                "runConfigData": "{}",
                "executionMetadata": {"tags": request["tags"]},
            }
            for request in result["runRequests"] or []
        ]
        launched = self.graphql(
            """mutation ($wanted: [ExecutionParams!]!) {
                 launchMultipleRuns(executionParamsList: $wanted) { __typename
                   ... on LaunchMultipleRunsResult {
                     launchMultipleRunsResult { __typename } } } }""",
            {"wanted": wanted},
        )["launchMultipleRuns"]["launchMultipleRunsResult"]
        assert {one["__typename"] for one in launched} <= {"LaunchRunSuccess"}, launched

    def unfinished(self) -> set[str]:
        """Files that a writer has left, in the scratch directory and in the store.

        A process keeps a directory there, with a lock, for its media processes.
        """
        store = Path(self.settings.resolved_store_url.removeprefix("file://"))
        places = (self.settings.scratch, store / ".tmp")
        return {
            str(path)
            for place in places
            if place.is_dir()
            for path in place.rglob("*")
            if path.is_file() and path.name != "owner.lock"
        }


def role_of(process: psutil.Process) -> str | None:
    """Which of the stack's processes it is, or a child of; None: another."""
    try:
        title = " ".join(process.cmdline())
        if process.name() == "postgres":
            return "postgres"
    except psutil.Error:
        return None
    return next((role for begin, role in _ROLES.items() if title.startswith(begin)), None)


SELECTOR = {"repositoryLocationName": "lens_pipeline", "repositoryName": "__repository__"}
