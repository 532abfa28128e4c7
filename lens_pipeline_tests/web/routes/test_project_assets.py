"""Assets and renditions of projects over HTTP."""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import CHECKED_SHOT
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.caller_override import become
from lens_pipeline_tests.web.run_queue import execute_queued

pytestmark = pytest.mark.slow

ASSETS = f"/api/projects/{PROJECT}/assets"
SCALED = f"/api/projects/{PROJECT}/scaled-videos"


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


def _add(web: httpx.Client, **body: Any) -> httpx.Response:
    return web.post(ASSETS, json=body)


def test_an_asset_shows_its_poster_once_it_is_made(
    site: Site, web: httpx.Client, app: FastAPI, project: Project
) -> None:
    project.shot("v")
    added = _add(web, generation_id="v", asset_id="a1")
    assert added.status_code == 201
    asset = added.json()
    assert (asset["type"], asset["usable"], asset["problem"]) == ("video", True, None)
    assert asset["poster_url"] is None
    assert web.get(f"{ASSETS}/a1/poster").json()["error"] == "not_ready"
    site.once()
    asset = next(a for a in web.get(ASSETS).json()["assets"] if a["asset_id"] == "a1")
    assert (asset["width"], asset["height"]) == (160, 120)
    assert asset["thumbhash"]
    # Who may see the project, though not the user, sees what it is made of.
    become(app, Caller(project_id=PROJECT))
    assert web.get("/api/generations/v/poster").status_code == 404
    poster = web.get(asset["poster_url"])
    assert (poster.status_code, poster.headers["Content-Type"]) == (200, "image/webp")


def test_what_cannot_be_a_shot_says_why(
    site: Site, web: httpx.Client, project: Project, photo: Callable[[str], str]
) -> None:
    site.add("p", photo("p"))
    site.add("late", None, type="video", status="generating")
    project.asset("gone", generation_id="deleted")
    project.asset("far", asset_url="https://example.org/x/film.mp4?a=b.png")
    project.asset("odd", asset_url="uploads/film")
    assert _add(web, generation_id="p", asset_id="p").status_code == 201
    assert _add(web, generation_id="late", asset_id="late").status_code == 201
    found = {asset["asset_id"]: asset for asset in web.get(ASSETS).json()["assets"]}
    assert {key: asset["usable"] for key, asset in found.items()} == {
        "p": False,
        "late": False,
        "gone": False,
        "far": True,
        "odd": True,
    }
    assert "is a photo" in found["p"]["problem"]
    assert "does not exist" in found["gone"]["problem"]
    assert "'generating'" in found["late"]["waits"]
    assert [found[key]["type"] for key in ("p", "late", "far", "odd", "gone")] == [
        *("photo", "video", "video", None, None)
    ]


def test_a_shot_that_was_looked_at_and_is_no_video_is_not_usable(
    site: Site, web: httpx.Client, project: Project
) -> None:
    """Known before somebody waits for a master of it."""
    (site.store / "film.mp4").write_text("no film")
    project.asset("bad", asset_url="film.mp4")
    RunQueue(site.pipeline, site.dagster, job).submit({CHECKED_SHOT: ["bad"]}, "api")
    assert execute_queued(site) == 1
    (asset,) = web.get(ASSETS).json()["assets"]
    assert not asset["usable"]
    assert "bad" in asset["problem"]


def test_assets_that_are_refused(
    site: Site, web: httpx.Client, app: FastAPI, project: Project
) -> None:
    site.add("v", "u1/v.mp4", type="video")
    bad: list[tuple[dict[str, Any], str]] = [
        ({}, "invalid_request"),
        ({"generation_id": "v", "asset_url": "https://example.org/a.mp4"}, "invalid_request"),
        ({"generation_id": "nobody"}, "unknown_generation"),
        ({"generation_id": "../x"}, "invalid_request"),
        ({"asset_url": ""}, "invalid_request"),
        ({"asset_url": "../../etc/passwd"}, "invalid_request"),
        ({"asset_url": "/etc/passwd"}, "invalid_request"),
        ({"asset_url": "http://"}, "invalid_request"),
        ({"asset_url": "http://example.org:99999/a.mp4"}, "invalid_request"),
        ({"asset_url": "https://example.org/a\r\nb"}, "invalid_request"),
        ({"asset_url": "https://example.org/" + "a" * 3000}, "invalid_request"),
        ({"generation_id": "v", "asset_id": "a b"}, "invalid_request"),
    ]
    for body, code in bad:
        answer = _add(web, **body)
        assert (answer.status_code, answer.json()["error"]) == (400, code), body
    assert _add(web, generation_id="v", asset_id="a1").status_code == 201
    assert _add(web, generation_id="v", asset_id="a1").status_code == 200
    taken = _add(web, asset_url="https://example.org/a.mp4", asset_id="a1")
    assert (taken.status_code, taken.json()["error"]) == (409, "id_taken")
    # Another project's asset of that id is neither changed nor shown.
    project.asset("theirs", project_id="p2", asset_url="https://example.org/secret.mp4")
    taken = _add(web, asset_url="https://example.org/secret.mp4", asset_id="theirs")
    assert (taken.status_code, "secret" in taken.text) == (409, False)


def test_a_token_of_a_project_reaches_nothing_that_is_not_its_own(
    site: Site, web: httpx.Client, app: FastAPI, project: Project
) -> None:
    """What lies in the store, of whichever user, would be seen through an asset of one's own."""
    site.add("v", "u1/v.mp4", type="video")
    become(app, Caller(project_id=PROJECT))
    for body in ({"generation_id": "v"}, {"asset_url": "u1/v.mp4"}):
        assert _add(web, **body).status_code == 403, body
    assert _add(web, asset_url="https://example.org/a.mp4").status_code == 201
    become(app, Caller(project_id="p2"))
    for url in (ASSETS, SCALED):
        assert web.get(url).status_code == 403
    assert _add(web, asset_url="https://example.org/a.mp4").status_code == 403


def test_a_rendition_from_its_order_to_the_video(
    site: Site, web: httpx.Client, project: Project
) -> None:
    project.master("m1", [project.shot("a")])
    wanted = {"master_id": "m1", "width": 80, "height": 60, "end_seconds": 0.5}
    early = web.post(SCALED, json={**wanted, "scaled_id": "early"}).json()
    assert (early["status"], early["waits"]) == ("none", "master 'm1' is not ready: none")
    assert site.runs() == []
    assert web.get(f"{SCALED}/early/video").json()["status"] == "created"
    site.once()
    assert web.get(f"{SCALED}/early").json()["status"] == "ready"
    ordered = web.post(SCALED, json={**wanted, "width": 40, "height": 30, "scaled_id": "s1"})
    assert (ordered.status_code, ordered.json()["status"]) == (201, "processing")
    not_yet = web.get(f"{SCALED}/s1/video")
    assert not_yet.json() == {"error": "Video not ready", "status": "processing"}
    assert execute_queued(site) == 1
    scaled = web.get(f"{SCALED}/s1").json()
    assert (scaled["status"], scaled["width"], scaled["end_seconds"]) == ("ready", 40, 0.5)
    video = web.get(scaled["video_url"])
    assert (len(video.content), video.headers["Content-Type"]) == (scaled["bytes"], "video/mp4")
    listed = web.get(SCALED).json()["scaled_videos"]
    assert [entry["scaled_id"] for entry in listed] == ["s1", "early"]
    assert web.post(f"{SCALED}/s1/retry").status_code == 409
    assert web.delete(f"{SCALED}/s1").status_code == 204
    assert web.get(f"{SCALED}/s1").status_code == 404
    assert web.get("/api/projects/p2/scaled-videos/early").status_code == 404


def test_renditions_that_are_refused(site: Site, web: httpx.Client, project: Project) -> None:
    project.master("m1", ["a"])
    good = {"master_id": "m1", "width": 80, "height": 60, "scaled_id": "s1"}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"master_id": "nobody"}, "unknown_master"),
        ({"width": 1}, "invalid_request"),
        ({"width": 10_000}, "invalid_request"),
        ({"height": "60"}, "invalid_request"),
        ({"height": 60.5}, "invalid_request"),
        ({"start_seconds": -1}, "invalid_request"),
        ({"start_seconds": 5, "end_seconds": 5}, "invalid_request"),
        ({"end_seconds": 0}, "invalid_request"),
        ({"start_seconds": 1e308}, "invalid_request"),
        ({"start_seconds": True}, "invalid_request"),
    ]
    for change, code in bad:
        answer = web.post(SCALED, json=good | change)
        assert (answer.status_code, answer.json()["error"]) == (400, code), change
    nan = b'{"master_id":"m1","width":8,"height":8,"end_seconds":NaN}'
    answer = web.post(SCALED, content=nan, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["field"]) == (400, "end_seconds")
    assert web.post(SCALED, json=good).status_code == 201
    assert web.post(SCALED, json=good).status_code == 200
    assert web.post(SCALED, json=good | {"width": 90}).json()["error"] == "id_taken"
