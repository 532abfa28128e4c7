"""`/metrics`, as Prometheus reads it."""

import datetime as dt
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.processes.usage import Usage, publish_once
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.counters import FigureLog
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brisk")]

Photo = Callable[[str], str]


def _figures(web: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels."""
    answer = web.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def _figure(web: httpx.Client, name: str, **labels: str) -> float | None:
    return _figures(web).get((name, frozenset(labels.items())))


def _made(web: httpx.Client) -> float | None:
    return _figure(web, "lens_processed_total", kind="photo", asset="preview")


def _missed(web: httpx.Client) -> float:
    return sum(n for (name, _), n in _figures(web).items() if name == "lens_failed_total")


def _other(site: Site) -> FastAPI:
    """One more process of the app."""
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


def _keep_tally(site: Site) -> None:
    """As version 0.1.0 kept it when it pruned events."""
    tally = json.dumps({"made": {"preview": 7}, "missed": [], "latency": {}, "stages": []})
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        values = {"key": "lens/pruned_figures", "value": tally}
        connection.execute(sa.text("INSERT INTO kvs (key, value) VALUES (:key, :value)"), values)


def test_figures_of_a_few_photos(site: Site, web: httpx.Client, photo: Photo) -> None:
    for name in ("a", "b", "c"):
        site.add(name, photo(name))
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.add("later", "http://localhost:9/none.jpg")
    assert eventually(lambda: _figure(web, "lens_metrics_loaded"), 10) == 1
    of = {"kind": "photo", "asset": "preview"}
    failed = {**of, "error_class": "UnsafeAddress", "permanent": "true"}
    # `increase()` sees the first failure and latency only if there was a zero before.
    assert _figure(web, "lens_failed_total", **failed) == 0
    assert _figure(web, "lens_latency_seconds_count", **of) == 0
    assert _made(web) == 0
    site.once()
    eventually(lambda: _made(web) == 3, 5)
    eventually(lambda: _figure(web, "lens_failed_total", **failed) == 1, 5)
    failed = {**of, "error_class": "HostUnreachable", "permanent": "false"}
    eventually(lambda: _figure(web, "lens_failed_total", **failed) == 1, 5)
    assert _figure(web, "lens_latency_seconds_count", **of) == 3
    assert _figure(web, "lens_latency_seconds_bucket", **of, le="+Inf") == 3
    made = [site.metadata("preview", name) for name in ("a", "b", "c")]
    for stage in ("fetch", "render", "store"):
        labels = {"asset": "preview", "stage": stage}
        total = sum(float(str(one[f"{stage}_seconds"].value)) for one in made)
        assert _figure(web, "lens_stage_seconds_sum", **labels) == pytest.approx(total)
        assert _figure(web, "lens_stage_seconds_count", **labels) == 3
    eventually(lambda: _figure(web, "lens_dead_letters", kind="photo") == 1, 20)


def test_a_process_counts_from_its_start(site: Site, app: FastAPI, photo: Photo) -> None:
    """What was before is not counted, nor what an older version kept of pruned events."""
    _keep_tally(site)
    with served(app) as url, httpx.Client(base_url=url) as first:
        eventually(lambda: _figure(first, "lens_metrics_loaded") == 1, 10)
        site.add("a", photo("a"))
        site.add("bad", "http://127.0.0.1/none.jpg")
        site.once()
        eventually(lambda: _made(first) == 1 and _missed(first) == 1, 5)
        with served(_other(site)) as other_url, httpx.Client(base_url=other_url) as second:
            eventually(lambda: _figure(second, "lens_metrics_loaded") == 1, 10)
            assert (_made(second), _missed(second)) == (0, 0)
            site.add("b", photo("b"))
            site.once()
            eventually(lambda: (_made(first), _made(second)) == (2, 1), 5)
            of = {"kind": "photo", "asset": "preview"}
            assert _figure(second, "lens_latency_seconds_count", **of) == 1


def test_what_happens_without_the_database_is_counted_once(
    site: Site, web: httpx.Client, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed has read the events, and the question for what they say fails."""
    eventually(lambda: _figure(web, "lens_metrics_loaded") == 1, 10)
    failures: list[int] = []
    read = FigureLog.events

    def fail_at_first(log: FigureLog, made: Sequence[int], missed: Sequence[int]) -> Any:
        if len(failures) < 3:
            failures.append(len(made))
            raise OperationalError("SELECT", {}, Exception("the server went away"))
        return read(log, made, missed)

    monkeypatch.setattr(FigureLog, "events", fail_at_first)
    for name in ("a", "b"):
        site.add(name, photo(name))
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.once()
    eventually(lambda: _made(web) == 2 and _missed(web) == 1, 15)
    assert len(failures) == 3
    time.sleep(1)
    assert (_made(web), _missed(web)) == (2, 1)


def test_adopted_ones_were_not_made(site: Site, web: httpx.Client) -> None:
    key = "u1/previews/old_preview.webp"
    (site.store / key).parent.mkdir(parents=True)
    (site.store / key).write_bytes(b"webp")
    site.add("old", "https://example.org/old.jpg")
    assert site.lens("adopt", "--json").json["adopted"] == 1
    assert web.get("/api/generations/old").json()["status"] == "ready"
    time.sleep(1)
    assert _made(web) == 0


def test_what_waits_in_queues(site: Site, web: httpx.Client) -> None:
    assert eventually(lambda: _figure(web, "lens_queue_depth", queue="masters") == 0, 10)
    ids = [site.add(f"p{n}", "https://example.org/p.jpg") for n in range(30)]
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    site.sql("UPDATE generations SET updated_at = :moment", moment=moment)
    RunQueue(site.pipeline, site.dagster, job).submit({PREVIEW: ids}, "api")
    eventually(lambda: _figure(web, "lens_queue_depth", queue="previews") == 2, 10)
    assert 0 <= (_figure(web, "lens_queue_age_seconds", queue="previews") or 0) < 20
    assert 3600 <= (_figure(web, "lens_oldest_unprocessed_seconds", kind="photo") or 0) < 3660
    assert _figure(web, "lens_oldest_unprocessed_seconds", kind="master") == 0


def test_a_home_that_cannot_be_read_hides_no_figure(site: Site, web: httpx.Client) -> None:
    """A failing disk that silences `/metrics` and alerts, which should tell of it."""
    (site.pipeline.settings.resolved_home / "services.json").write_text("{")
    for _ in range(2):
        assert web.get("/metrics").status_code == 200
        eventually(lambda: _figure(web, "lens_queue_depth", queue="masters") == 0, 10)


def test_prometheus_accepts_them(site: Site, web: httpx.Client, photo: Photo) -> None:
    usage = Usage("worker-previews", "other-host", 7, 1024, 1.5)
    publish_once(usage, site.dagster_url)
    publish_once(replace(usage, cpu_seconds=2.5), site.dagster_url)
    # As another version may, while a site is upgraded.
    more, less = {**asdict(usage), "pid": 8, "threads": 3}, {"role": "api"}
    site.dagster.daemon_cursor_storage.set_cursor_values(
        {
            f"lens/usage/{name}": json.dumps({"at": time.time(), "usage": published})
            for name, published in (("more", more), ("less", less))
        }
    )
    site.add("a", photo("a"))
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.once()
    eventually(lambda: _made(web) == 1 and _figure(web, "lens_dead_letters", kind="photo"), 20)
    one = {"role": "worker-previews", "host": "other-host", "pid": "7"}
    eventually(lambda: _figure(web, "lens_process_cpu_seconds_total", **one) == 2.5, 5)
    assert _figure(web, "lens_process_memory_bytes", **one) == 1024
    assert _figure(web, "lens_process_memory_bytes", **{**one, "pid": "8"}) == 1024
    text = web.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    assert {family.name for family in families} >= {
        *("lens_processed", "lens_failed", "lens_latency_seconds", "lens_stage_seconds"),
        *("lens_queue_depth", "lens_queue_age_seconds", "lens_oldest_unprocessed_seconds"),
        *("lens_dead_letters", "lens_build_info", "lens_metrics_loaded"),
        *("lens_originals_unsaved", "lens_oldest_unsaved_original_seconds"),
    }
    assert all(family.documentation and family.type != "unknown" for family in families)
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")
