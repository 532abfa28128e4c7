"""The app as `lens up` runs it: with a real daemon, real workers, and an end."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from lens_pipeline_tests.core.collectors import Collector, attributes
from lens_pipeline_tests.deploy.deployed import metrics_used
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import eventually
from lens_pipeline_tests.support.stack import Stack
from lens_pipeline_tests.web.routes.stream import EventSource

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture
def stack(tmp_path: Path, collector: Collector) -> Iterator[Stack]:
    made = Stack(tmp_path / "home", LENS_LOG_FORMAT="json")
    made.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    made.start()
    yield made
    made.stop()


def test_live_in_lens_up(stack: Stack, collector: Collector, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(sources.jpeg())
    url = f"http://127.0.0.1:{stack.api_port}"
    with httpx.Client(base_url=url, timeout=20) as web, EventSource(web) as stream:
        eventually(lambda: web.get("/api/health").status_code == 200, 60, "health", every=1)
        found = web.get("/api/health").json()
        assert (found["status"], found["workers"]) == ("ok", 2)

        added = stack.lens("add", str(file), "--user", "me")
        assert added.returncode == 0, added.stderr
        stream.await_event(lambda e: e.name == "status" and e.data["status"] == "ready", 30)
        (row_id,) = {event["id"] for event in stream.named("status")}
        # Every state in turn, as it came to be.
        assert stream.states(row_id) in (["processing", "ready"], ["ready"])

        samples = {
            (sample.name, sample.labels.get("queue")): sample.value
            for family in text_string_to_metric_families(web.get("/metrics").text)
            for sample in family.samples
        }
        assert samples["lens_workers_alive", "previews"] == 1
        assert samples["lens_workers_alive", "masters"] == 1
        assert samples["lens_daemon_heartbeat_age_seconds", None] < 60
        assert samples["lens_metrics_loaded", None] == 1

        connections = json.loads((stack.home / "services.json").read_text())
        engine = sa.create_engine(connections["database_url"], poolclass=sa.NullPool)
        query = sa.text("SELECT preview_status FROM lens_generations WHERE id = :id")

        def shown() -> str:
            with engine.connect() as connection:
                return connection.execute(query, {"id": row_id}).scalar_one()

        eventually(lambda: shown() == "ready", 5, "the row of the view")

        _check_trace(collector, row_id)
        bad = stack.lens("add", "http://10.0.0.1/none.jpg", "--user", "me").stdout.strip()
        found = f"/api/generations/{bad}"
        eventually(lambda: web.get(found).json()["status"] == "dead", 30, "a dead letter")
        headers = {"X-Request-ID": "asked-for-it"}
        assert web.post(f"{found}/retry", headers=headers).status_code == 200
        eventually(lambda: _told(stack, "asked-for-it", bad), 30, "the log of the retry")

        text = web.get("/metrics").text
        families = text_string_to_metric_families(text)
        names = {sample.name for family in families for sample in family.samples}
        assert metrics_used() <= names

        _outlives_the_dagster_ui(stack, web)
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


def _outlives_the_dagster_ui(stack: Stack, web: httpx.Client) -> None:
    """Nothing here is asked of it, and it comes back by itself."""
    ui = f"http://127.0.0.1:{stack.port}/server_info"
    for process in stack.of("web"):
        process.kill()
    assert web.get("/api/health").status_code == 200
    assert web.get("/api/generations").status_code == 200
    eventually(lambda: _answers(ui), 60, "the return of the Dagster UI", every=1)


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
