"""The app as `lens up` runs it: with a real daemon, real workers, and an end."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from lens_pipeline_tests.pipeline import sources
from lens_pipeline_tests.pipeline.site import eventually
from lens_pipeline_tests.pipeline.stack import Stack
from lens_pipeline_tests.web.stream import EventSource

pytestmark = [pytest.mark.slow, pytest.mark.stack]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "home")
    made.start()
    yield made
    made.stop()


def test_live_in_lens_up(stack: Stack, tmp_path: Path) -> None:
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

        (api, *_) = stack.of("api")
        started = time.monotonic()
        assert stack.terminate() == 0
        assert stream.ended.wait(1)
        assert not api.is_running()
        assert time.monotonic() - started < 25
