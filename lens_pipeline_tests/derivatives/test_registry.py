"""A derivative that is only an entry of the registry with a materializer works everywhere."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import httpx2 as httpx
import pytest
from PIL import Image

from lens_pipeline import definitions
from lens_pipeline.catalog.rows import Generation
from lens_pipeline.defs.assets.derivatives import MATERIALIZERS
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.registry import PREVIEW, Derivative
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.routes.event_source import EventSource

KEY = "u1/previews/p1_preview_256.webp"


@pytest.fixture
def thumbnail(monkeypatch: pytest.MonkeyPatch) -> Iterator[Derivative[Generation]]:
    """What a developer adds: one entry, and what materializes it."""
    entry = replace(
        PREVIEW,
        asset="thumbnail",
        description="WebP thumbnail of one photo, at most 256 pixels.",
        job="thumbnails",
        stem=lambda row: f"{row.user_id}/previews/{row.id}_preview_256",
        sensor="new_thumbnails",
        edge=256,
    )
    monkeypatch.setattr(registry, "DERIVATIVES", (*registry.DERIVATIVES, entry))
    monkeypatch.setitem(MATERIALIZERS, entry.asset, MATERIALIZERS[PREVIEW.asset])
    definitions.repository.cache_clear()
    yield entry
    definitions.repository.cache_clear()


@pytest.fixture
def photo(site: Site, server: HostileServer) -> Callable[[str], str]:
    """Adds a finished photo of 640 x 480 pixels; returns its id."""
    server.put("/large.jpg", sources.jpeg(640, 480))
    return lambda row_id: site.add(row_id, server.url("/large.jpg", host="localhost"))


@pytest.mark.slow
def test_it_is_made_served_shown_told_and_counted(
    thumbnail: Derivative, site: Site, photo: Callable[[str], str]
) -> None:
    site.lens("migrate")
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, definitions.job)))
    with served(app) as url, httpx.Client(base_url=url) as web, EventSource(web) as stream:
        photo("p1")
        done = site.once()
        assert (done["ready"], done["failed"]) == (2, 0)
        told = stream.await_event(
            lambda e: (
                e.name == "status" and (e.data["asset"], e.data["status"]) == ("thumbnail", "ready")
            )
        )
        assert (told.data["id"], told.data["kind"], told.data["path"]) == ("p1", "photo", KEY)
        answer = web.get("/api/generations/p1/thumbnail")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(answer.content)).size == (256, 192)
        assert Image.open(io.BytesIO(web.get("/api/generations/p1/preview").content)).width == 640
        counted = 'lens_processed_total{asset="thumbnail",kind="photo"} 1.0'
        eventually(lambda: counted in web.get("/metrics").text, 5)
        shown = {"preview", "thumbnail", "photo_generation"}
        eventually(lambda: _shown(site) == shown, 10)
    assert _states(site) == {"preview": "ready", "thumbnail": "ready"}
    assert site.metadata("thumbnail", "p1")["width"].value == 256
    assert [run.job_name for run in site.runs()].count("thumbnails") == 1
    site.sql("DELETE FROM generations")
    site.lens("remove-missing", "--yes")
    assert KEY not in site.objects()


def test_its_sensor_requests_a_run(
    thumbnail: Derivative, site: Site, photo: Callable[[str], str]
) -> None:
    photo("p1")
    sensor = definitions.repository().get_sensor_def("new_thumbnails")
    with dg.build_sensor_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        result: Any = sensor(context)
    (request,) = result.run_requests
    assert (request.job_name, request.run_key.partition(":")[0]) == ("thumbnails", "thumbnail")
    assert site.dagster.get_dynamic_partitions("photos") == ["p1"]


def test_the_backfill_finds_its_gaps(
    thumbnail: Derivative, site: Site, photo: Callable[[str], str]
) -> None:
    photo("p1")
    schedule = definitions.repository().get_schedule_def("backfill_thumbnails")
    with dg.build_schedule_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        result: Any = schedule(context)
    (request,) = result
    assert (request.job_name, request.run_key.partition(":")[0]) == ("thumbnails", "thumbnail")
    assert site.dagster.get_dynamic_partitions("photos") == ["p1"]


def _states(site: Site) -> dict[str, str]:
    entries = site.lens("status", "p1", "--json").json["status"]
    return {entry["asset"]: entry["state"] for entry in entries}


def _shown(site: Site) -> set[str]:
    """The assets whose status SQL shows as ready."""
    return {r.asset for r in site.sql("SELECT asset FROM lens_derivatives WHERE status = 'ready'")}
