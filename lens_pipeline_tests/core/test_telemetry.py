"""Traces and reports, received by real servers; and nothing of either without their settings."""

import datetime as dt
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import sentry_sdk

from lens_pipeline.core import telemetry
from lens_pipeline.core.logs import bound, request_id
from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.tags import REQUEST_TAG
from lens_pipeline.settings import Settings, SettingsError, traces_wanted
from lens_pipeline_tests.core.otlp_collector import Collector, attributes
from lens_pipeline_tests.support.site import Site, eventually

_LOADS_ALL = """
import sys
import lens_pipeline.definitions, lens_pipeline.engine.processes.daemon
import lens_pipeline.engine.run_execution
import lens_pipeline.web.app, lens_pipeline.cli.session
from lens_pipeline.core import telemetry
from lens_pipeline.settings import Settings
telemetry.begin_reports(Settings())
with telemetry.span("nothing", linked="x"):
    telemetry.add_wait(None)
    telemetry.add_stages({"fetch_seconds": 1.0})
    assert telemetry.carrier() == {}
telemetry.report(ValueError())
telemetry.flush(1)
# FastAPI takes the interface alone, which is small.
parts = ("opentelemetry.sdk", "opentelemetry.exporter", "sentry_sdk")
print([name for name in sys.modules if name.startswith(parts)])
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture
def traced(environment: pytest.MonkeyPatch, collector: Collector) -> Iterator[pytest.MonkeyPatch]:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    environment.setenv("OTEL_SERVICE_NAME", "lens-test")
    telemetry._provider.cache_clear()
    telemetry._tracer.cache_clear()
    yield environment
    provider = telemetry._provider()
    if provider is not None:
        provider.shutdown()
    telemetry._provider.cache_clear()
    telemetry._tracer.cache_clear()


@pytest.fixture
def reporting(collector: Collector, environment: pytest.MonkeyPatch) -> Iterator[Collector]:
    environment.setenv("SENTRY_DSN", collector.dsn)
    telemetry.begin_reports(Settings(sentry_dsn=collector.dsn))
    yield collector
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.slow
def test_nothing_is_loaded_without_settings(environment: pytest.MonkeyPatch) -> None:
    """What nobody asked for costs start-up time and memory in every process."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "SENTRY_DSN"):
        environment.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", _LOADS_ALL], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_standard_variables_turn_traces_on(environ: dict[str, str], wanted: bool) -> None:
    assert traces_wanted(environ) is wanted


@pytest.mark.slow
def test_one_trace_from_the_request_to_the_stored_file(
    site: Site, traced: pytest.MonkeyPatch, collector: Collector, photo: Callable[[str], str]
) -> None:
    site.add("good", photo("good") + "?token=query-secret")
    site.add("bad", "http://127.0.0.1/none.jpg?token=query-secret")
    queue = RunQueue(site.pipeline, site.dagster, job)
    token = request_id.set("request-1")
    runs = queue.prepare({PREVIEW: ["good", "bad"]}, "api")
    request_id.reset(token)
    assert {run.tags[REQUEST_TAG] for run in runs} == {"request-1"}
    for run in runs:
        execute(site.dagster, run.run_id)
    assert site.status("good")["state"] == "ready"
    telemetry.flush(10)
    (asked,) = collector.named("request")
    (run,) = collector.named("run previews")
    good, bad = sorted(
        collector.named("preview"),
        key=lambda span: attributes(span)["lens.generation_id"] != "good",
    )
    assert {span.trace_id for span in collector.spans} == {asked.trace_id}
    assert run.parent_span_id == asked.span_id
    assert good.parent_span_id == bad.parent_span_id == run.span_id
    assert [link.span_id for link in good.links] == [asked.span_id]
    (wait,) = [s for s in collector.named("wait") if s.parent_span_id == good.span_id]
    stages = [collector.named(name)[0] for name in ("fetch", "render", "store")]
    assert all(stage.parent_span_id == good.span_id for stage in stages)
    # One after the other.
    fetch, render, store = stages
    assert fetch.end_time_unix_nano == render.start_time_unix_nano
    assert render.end_time_unix_nano == store.start_time_unix_nano
    finished = dt.datetime.fromtimestamp(wait.start_time_unix_nano / 1e9, dt.UTC)
    (row,) = site.sql("SELECT created_at FROM generations WHERE id = 'good'")
    assert abs(finished - row.created_at) < dt.timedelta(seconds=1)
    assert (bad.status.code, bad.status.message) == (2, "UnsafeAddress")
    assert attributes(asked)["lens.request_id"] == "request-1"
    assert collector.services == {"lens-test"}
    assert b"query-secret" not in collector.raw


def test_a_fault_of_ours_is_reported_without_secrets(reporting: Collector) -> None:
    with bound(run_id="run-1", generation_id="g-1"):
        try:
            _fail("LOCAL-SECRET".lower())
        except ValueError:
            logging.getLogger("lens_pipeline.test").exception("a fault")
    eventually(lambda: reporting.events, 10, "the report")
    (event,) = reporting.events
    assert event["tags"] == {"run_id": "run-1", "generation_id": "g-1"}
    assert event["exception"]["values"][0]["type"] == "ValueError"
    for secret in (b"query-secret", b"url-password", b"-secret"):
        assert secret not in reporting.raw


@pytest.mark.slow
def test_a_bad_file_is_not_reported_and_an_unforeseen_error_is(
    site: Site, reporting: Collector, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.once()
    site.add("unforeseen", photo("unforeseen"))
    environment.setattr("lens_pipeline.defs.assets.materializer.latency_seconds", _raise_unforeseen)
    site.once()
    eventually(lambda: reporting.events, 10, "the report")
    sentry_sdk.flush(5)
    (event,) = reporting.events
    assert event["exception"]["values"][-1]["value"] == "nobody expects this"
    assert event["tags"]["generation_id"] == "unforeseen"


def _fail(argument: str) -> None:
    raise ValueError(f"{len(argument)}: https://u:url-password@example.org/a?key=query-secret")


def _raise_unforeseen(_: object) -> float:
    raise RuntimeError("nobody expects this")


def test_a_wrong_dsn_is_one_line() -> None:
    with pytest.raises(SettingsError, match="SENTRY_DSN"):
        telemetry.begin_reports(Settings(sentry_dsn="https://example.org"))
