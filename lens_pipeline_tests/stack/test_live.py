"""The life of one `lens up`: a first photo, a day of work, and its stop."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from lens_pipeline.engine.liveness import CHECKS, code_socket
from lens_pipeline_tests.core.otlp_collector import Collector, attributes
from lens_pipeline_tests.engine.test_commands import run_command
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import eventually
from lens_pipeline_tests.support.stack import Stack
from lens_pipeline_tests.web.routes.event_source import EventSource

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    """One for all tests here, whose order is that of its life."""
    home = tmp_path_factory.mktemp("live") / "home"
    stack = Stack(home, LENS_LOG_FORMAT="json")
    stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    with stack:
        yield stack


@pytest.fixture
def web(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.api_port}", timeout=20) as client:
        yield client


def _memory(web: httpx.Client) -> dict[str, float]:
    """Bytes by role."""
    told = (one for one in _samples(web) if one.name == "lens_process_memory_bytes")
    return {one.labels["role"]: one.value for one in told}


def _samples(web: httpx.Client) -> Iterator[Sample]:
    """What /metrics tells."""
    for family in text_string_to_metric_families(web.get("/metrics").text):
        yield from family.samples


def test_a_first_photo_is_followed_live(
    stack: Stack, collector: Collector, web: httpx.Client, tmp_path: Path
) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(sources.jpeg())
    with EventSource(web) as stream:
        _await_health(web)
        found = web.get("/api/health").json()
        assert (found["status"], found["workers"]) == ("ok", 2)

        added = stack.lens("add", str(file), "--user", "me")
        assert added.returncode == 0, added.stderr
        stream.await_event(lambda e: e.name == "status" and e.data["status"] == "ready", 30)
        (row_id,) = {event["id"] for event in stream.named("status")}
        # Every state in turn, as it came to be.
        assert stream.states(row_id) in (["processing", "ready"], ["ready"])

    (code, *_) = stack.of("code")
    assert not [one for one in code.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    listening = code_socket(stack.home)
    assert listening.is_socket() and listening.parent.stat().st_mode & 0o777 == 0o700
    everything = "code, dagster, daemon, api, worker-previews, worker-masters live\n"
    assert stack.lens("health").stdout == everything

    values = {(one.name, one.labels.get("queue")): one.value for one in _samples(web)}
    assert values["lens_workers_alive", "previews"] == 1
    assert values["lens_workers_alive", "masters"] == 1
    assert values["lens_daemon_heartbeat_age_seconds", None] < 60
    assert values["lens_metrics_loaded", None] == 1
    # Each process tells its own, soon after its start.
    eventually(lambda: _memory(web).keys() == set(CHECKS), 60, "the memory of each role")
    assert all(2**20 < used < 2**30 for used in _memory(web).values())

    engine = sa.create_engine(stack.pipeline.endpoints.database_url, poolclass=sa.NullPool)
    query = sa.text("SELECT preview_status FROM lens_generations WHERE id = :id")

    def shown() -> str:
        with engine.connect() as connection:
            return connection.execute(query, {"id": row_id}).scalar_one()

    eventually(lambda: shown() == "ready", 5, "the row of the view")
    _check_trace(collector, row_id)


def test_the_log_tells_which_request_a_run_is_for(stack: Stack, web: httpx.Client) -> None:
    bad = stack.lens("add", "http://10.0.0.1/none.jpg", "--user", "me").stdout.strip()
    path = f"/api/generations/{bad}"
    eventually(lambda: web.get(path).json()["status"] == "dead", 30, "a dead letter")
    headers = {"X-Request-ID": "asked-for-it"}
    assert web.post(f"{path}/retry", headers=headers).status_code == 200
    eventually(lambda: _told(stack, "asked-for-it", bad), 30, "the log of the retry")


def test_the_commands_of_dagster_use_the_stack(stack: Stack) -> None:
    """A second database, or a second daemon on the first."""
    done = run_command(stack.environment, "dg", "launch", "--job", "retention")
    assert done.returncode == 0, done.stderr
    (run,) = stack.dagster("SELECT status FROM runs WHERE pipeline_name = 'retention'")
    assert run.status == "SUCCESS"
    dev = run_command(stack.environment, "dagster", "dev")
    assert (dev.returncode, "`lens up` already runs here" in dev.stderr) == (2, True), dev.stderr
    (left,) = re.findall(r"temporary directory (\S+)", dev.stdout)
    assert not Path(left).exists()


def test_a_stop_ends_streams_and_leaves_logs_of_json(stack: Stack, web: httpx.Client) -> None:
    _outlives_the_dagster_ui(stack, web)
    with EventSource(web) as stream:
        (api, *_) = stack.of("api")
        started = time.monotonic()
        assert stack.terminate() == 0
        assert stream.ended.wait(1)
        assert not api.is_running()
        assert time.monotonic() - started < 25
    logs = sorted((stack.home / "logs").glob("*.log"))
    assert {log.stem for log in logs} >= {"api", "code", "daemon", "postgres", "valkey", "web"}
    for log in logs:
        lines = log.read_text().splitlines()
        assert all(isinstance(json.loads(line), dict) for line in lines), log


def _await_health(web: httpx.Client) -> None:
    eventually(lambda: web.get("/api/health").status_code == 200, 60, "health", every=1)


def _outlives_the_dagster_ui(stack: Stack, web: httpx.Client) -> None:
    """The API needs nothing of the UI, and the UI is started again."""
    ui = f"http://127.0.0.1:{stack.port}/server_info"
    _await_health(web)
    for process in stack.of("web"):
        process.kill()
    assert web.get("/api/health").status_code == 200
    assert web.get("/api/generations").status_code == 200
    eventually(lambda: _answers(ui), 60, "the return of the Dagster UI", every=1)
    # A figure is that of the last look, some seconds ago.
    eventually(lambda: _restarts(web).get("web"), 10, "the count of restarts")
    assert {name for name, count in _restarts(web).items() if not count} >= {
        "api",
        "worker-masters",
    }
    shown = json.loads(stack.lens("status", "nothing", "--json").stdout)
    assert shown["restarts"]["web"] == 1


def _restarts(web: httpx.Client) -> dict[str, float]:
    figures = [one for one in _samples(web) if one.name == "lens_restarts_total"]
    return {one.labels["process"]: one.value for one in figures}


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


def _check_trace(collector: Collector, row_id: str) -> None:
    """One trace from the sensor to the stored file, from three processes."""
    eventually(lambda: collector.named("run previews"), 10, "the trace")
    (ticked,) = collector.named("sensor of preview")
    (run,) = collector.named("run previews")
    (made,) = collector.named("preview")
    assert attributes(made)["lens.generation_id"] == row_id
    assert run.parent_span_id == ticked.span_id
    assert made.parent_span_id == run.span_id
    assert {span.trace_id for span in collector.spans} == {ticked.trace_id}
    assert {span.name for span in collector.spans} >= {"wait", "fetch", "render", "store"}


def _told(stack: Stack, request_id: str, generation_id: str) -> list[dict[str, str]]:
    """What a worker has logged of this generation for this request."""
    lines = (stack.home / "logs" / "worker-previews.log").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [
        entry
        for entry in entries
        if entry.get("request_id") == request_id
        and entry.get("generation_id") == generation_id
        and entry.get("run_id")
    ]
