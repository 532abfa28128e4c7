"""Renditions by the addresses of the workers that this project replaces."""

import json
import shlex
import subprocess
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.event_log.history import State
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.routes.renditions import ScaledOut
from lens_pipeline.web.routes.scale_jobs import percent_of
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.caller_override import become
from lens_pipeline_tests.web.run_queue import execute_queued

pytestmark = pytest.mark.slow

BASE = f"/api/projects/{PROJECT}"
# As people had them, but for the address.
_SCALE = """
curl -s -X POST "$API/api/projects/p1/master-videos/m1/scale"
  -H "Content-Type: application/json" -d '{"count": 2, "formats": ["96x128", "128x96"]}'
"""
_POLL = 'curl -s "$API/api/projects/p1/scale-jobs/$JOB"'
_VIDEO = 'curl -s "$API/api/projects/p1/scaled-videos/$VIDEO/video"'


@pytest.fixture
def project(site: Site) -> Project:
    made = Project(site)
    made.shot("a")
    made.master("m1", ["a"] * 12, "Seaside")
    return made


def _curl(web: httpx.Client, line: str, **names: str) -> bytes:
    names["API"] = str(web.base_url).rstrip("/")
    for name, value in names.items():
        line = line.replace(f"${name}", value)
    return subprocess.run(shlex.split(line), check=True, stdout=subprocess.PIPE).stdout


def test_a_job_by_the_old_lines(site: Site, web: httpx.Client, project: Project) -> None:
    site.once()

    def asked(line: str, **names: str) -> Any:
        return json.loads(_curl(web, line, **names))

    job = asked(_SCALE)
    assert (job["status"], job["total"], job["progress"]) == ("queued", 4, 0)
    assert asked(_POLL, JOB=job["job_id"])["status"] == "queued"
    ids = [one["scaled_id"] for one in job["videos"]]
    execute_queued(site)
    job = asked(_POLL, JOB=job["job_id"])
    assert (job["status"], job["progress"], job["completed"]) == ("completed", 100, 4)
    assert [one["scaled_id"] for one in job["videos"]] == ids
    found = [(one["format"], one["sequence"], one["status"]) for one in job["videos"]]
    assert found == [(one, n, "completed") for n in (1, 2) for one in ("128x96", "96x128")]
    video = job["videos"][0]
    assert _curl(web, _VIDEO, VIDEO=video["scaled_id"]) == web.get(video["video_url"]).content


def test_what_is_ready_is_not_counted_twice() -> None:
    def pieces(state: State, count: int, percent: int | None = None) -> list[ScaledOut]:
        return [ScaledOut.model_construct(status=state, percent=percent)] * count

    ready, queued = pieces(State.READY, 9), pieces(State.PROCESSING, 1)
    assert percent_of(ready + pieces(State.PROCESSING, 11, 47)) == 47
    # The percent of one more run is not that of the job.
    assert percent_of(ready + pieces(State.PROCESSING, 10, 99) + queued) == 45
    assert [percent_of(queued), percent_of(pieces(State.PROCESSING, 1, 60))] == [0, 60]
    assert [percent_of(pieces(State.DEAD, 2)), percent_of(ready)] == [0, 100]


def test_a_job_that_fails_is_tried_again_and_deleted(
    site: Site, web: httpx.Client, app: FastAPI, project: Project
) -> None:
    site.once()
    (video,) = site.store.glob("masters/**/*.mp4")
    whole = video.read_bytes()
    video.write_bytes(b"no film")
    # One fragment is the whole film, as in the old pages; what they add is of no effect.
    wanted = {"count": 1, "formats": ["96x128"], "quality": "high"}
    answer = web.post(f"{BASE}/master-videos/m1/scale", json=wanted)
    assert (answer.status_code, answer.json()["total"]) == (202, 1)
    url = f"{BASE}/scale-jobs/{answer.json()['job_id']}"
    execute_queued(site)
    failed = web.get(url).json()
    assert (failed["status"], failed["failed"]) == ("failed", 1)
    assert failed["videos"][0]["error"]
    video.write_bytes(whole)
    assert web.post(f"{url}/retry").json()["failed"] == 0
    execute_queued(site)
    assert web.get(url).json()["status"] == "completed"
    assert web.post(f"{url}/retry").json()["error"] == "not_failed"
    become(app, Caller(project_id="p2"))
    assert web.delete(url).status_code == 404
    become(app, Caller(project_id=PROJECT))
    assert web.delete(url).status_code == 204
    assert web.get(url).status_code == 404
    refused = web.post(f"{BASE}/master-videos/m1/scale", json={"formats": ["2:1"]})
    assert (refused.status_code, refused.json()["error"]) == (400, "unknown_format")


def test_a_job_of_a_host_whose_table_knows_no_orders(
    site: Site, web: httpx.Client, project: Project
) -> None:
    """It gets black bars, and its pages their job."""
    site.sql("ALTER TABLE scaled_videos DROP fill, DROP focus, DROP order_id")
    wanted = {"formats": ["96x128", "128x96"]}
    job = web.post(f"{BASE}/master-videos/m1/scale", json=wanted).json()
    assert (job["status"], job["total"]) == ("queued", 2)
    site.once()
    site.once()
    url = f"{BASE}/scale-jobs/{job['job_id']}"
    assert web.get(url).json()["status"] == "completed"
    assert web.get(f"{BASE}/archive", params={"order_ids": job["job_id"]}).status_code == 200
