"""Hover clips of videos, from the row to the API."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import dagster as dg
import httpx2 as httpx
import pytest

from lens_pipeline import definitions
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.tags import PRIORITY_TAG
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.media.samples import black, scene, write_video
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served

KEY = "u1/previews/v1_preview.mp4"


@pytest.fixture
def video(site: Site, server: HostileServer, tmp_path: Path) -> Callable[[], str]:
    """Adds a finished video of 6 s that is black for a second; returns its id."""
    frames = [black(640, 360)] * 10 + [scene(640, 360)] * 50
    source = write_video(tmp_path / "v.mp4", frames, rate=10, audio_seconds=6)
    server.put("/v.mp4", source.read_bytes())
    return lambda: site.add("v1", server.url("/v.mp4", host="localhost"), type="video")


def _request(site: Site, job: str = "clips") -> Any:
    sensor = definitions.repository().get_sensor_def(f"new_{job}")
    with dg.build_sensor_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        return sensor(context)


def _facts(site: Site, asset: str) -> dict[str, Any]:
    return {name: value.value for name, value in site.metadata(asset, "v1").items()}


@pytest.mark.slow
def test_a_video_has_a_clip_after_its_poster(
    site: Site, video: Callable[[], str], environment: pytest.MonkeyPatch, server: HostileServer
) -> None:
    """A card that does not move; a clip that delays posters or loads the video again."""
    environment.setenv("LENS_CLIPS", "true")
    site.lens("migrate")
    video()
    assert isinstance(_request(site), dg.SkipReason)
    done = site.once()
    assert (done["ready"], done["failed"]) == (2, 0)
    assert server.requests["/v.mp4"] == 1
    clip_facts, poster_facts = (_facts(site, asset) for asset in ("clip", "poster"))
    assert clip_facts["poster_at_seconds"] == poster_facts["poster_at_seconds"] >= 1
    assert clip_facts["bytes"] == (site.store / KEY).stat().st_size <= 300_000
    with av.open(str(site.store / KEY)) as clip:
        assert not clip.streams.audio
        shown = [frame.to_ndarray(format="gray").mean() for frame in clip.decode(video=0)]
        assert (clip.streams.video[0].width, clip.streams.video[0].height) == (480, 270)
    assert 3 <= len(shown) / 10 <= 4
    # It begins where the black has ended.
    assert shown[0] > 60
    states = {
        one["asset"]: one["state"] for one in site.lens("status", "v1", "--json").json["status"]
    }
    assert states == {"poster": "ready", "clip": "ready"}
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, definitions.job)))
    with served(app) as url, httpx.Client(base_url=url) as web:
        (listed,) = web.get("/api/generations").json()["generations"]
        assert listed["clip_url"] == "/api/generations/v1/clip"
        answer = web.get(listed["clip_url"])
        assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    site.sql("DELETE FROM generations")
    site.lens("remove-missing", "--yes")
    assert KEY not in site.objects()


@pytest.mark.parametrize(
    ("job", "setting"), [("clips", "LENS_CLIPS"), ("playable_videos", "LENS_PLAYABLE")]
)
def test_they_are_asked_for_last_and_can_be_switched_off(
    site: Site,
    video: Callable[[], str],
    environment: pytest.MonkeyPatch,
    job: str,
    setting: str,
) -> None:
    """Encodes that an operator did not want, or before masters."""
    video()
    done = site.once()
    assert (done["ready"], done["failed"]) == (1, 0)
    assert _request(site, job).skip_message == f"{setting} is false."
    environment.setenv(setting, "true")
    (request,) = _request(site, job).run_requests
    assert request.job_name == job
    assert int(request.tags[PRIORITY_TAG]) < -4


@pytest.mark.slow
def test_an_older_library_gets_clips_when_somebody_says_so(
    site: Site, video: Callable[[], str], environment: pytest.MonkeyPatch
) -> None:
    """Dead letters of links that have expired, and the site's own clips written over."""
    environment.setenv("LENS_CLIPS", "true")
    site.lens("migrate")
    video()
    site.sql(
        "INSERT INTO generations (id, user_id, type, status, asset_url)"
        " SELECT 'v2', user_id, type, status, asset_url FROM generations"
    )
    site.sql("UPDATE generations SET updated_at = now() - interval '2 days'")
    (site.store / KEY).parent.mkdir(parents=True)
    (site.store / KEY).write_bytes(b"the site's own")
    # It waits for its poster, and is there all the same.
    assert site.lens("adopt", "--json").json["adopted"] == 1
    assert site.once()["ready"] == 2
    assert site.once()["found"] == 0
    result = site.lens("backfill", "--kind", "video", "--json").json
    assert (result["ready"], result["failed"]) == (1, 0)
    assert (site.store / KEY).read_bytes() == b"the site's own"
