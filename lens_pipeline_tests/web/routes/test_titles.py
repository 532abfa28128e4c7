"""Names of generations, shots and films, and the search for them."""

from typing import Any

import httpx2 as httpx
import pytest

from lens_pipeline.definitions import job
from lens_pipeline.derivatives import library
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served

pytestmark = pytest.mark.slow

_MASTERS = f"/api/projects/{PROJECT}/master-videos"


def _page(web: httpx.Client, **query: Any) -> Any:
    answer = web.get("/api/generations", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _found(web: httpx.Client, **query: Any) -> list[str]:
    return [entry["id"] for entry in _page(web, **query)["generations"]]


def test_a_name_or_an_id_is_found(
    site: Site, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("sea-1", "u1/uploads/sea-1/Лето и день.jpg")
    site.add("far", "https://h.example/x/%D0%9B%D0%B5%D1%82%D0%BE.png?sig=beach", user_id="u2")
    site.add("film", "u1/uploads/film/Beach (2).mp4", type="video")
    entries = {one["id"]: one["title"] for one in _page(web)["generations"]}
    assert entries == {"sea-1": "Лето и день", "far": "Лето", "film": "Beach (2)"}
    assert set(_found(web, q="лето")) == {"sea-1", "far"}
    assert _found(web, q="ЛЕТО", user_id="u2") == ["far"]
    assert _found(web, q="beach (2)") == ["film"]
    assert _found(web, q="  SEA ") == ["sea-1"]
    assert _found(web, q="film") == _found(web, q="FIL") == ["film"]
    assert _found(web, q="film", type="photo") == []
    for nothing in ("x", "sig", "cdn", "u1/uploads"):
        assert _found(web, q=nothing) == [], nothing
    assert len(_found(web, q="")) == 3
    assert _found(web, q="лето", status="none") == _found(web, q="лето")
    # A page looks at so many rows at most, and the next one goes on behind them.
    monkeypatch.setattr(library, "_MOST_SEARCHED", 2)
    first = _page(web, q="лето")
    rest = _page(web, q="лето", cursor=first["next_cursor"])
    assert [one["id"] for page in (first, rest) for one in page["generations"]] == ["far", "sea-1"]
    assert rest["next_cursor"] is None


def test_a_column_of_the_site_names_its_rows(site: Site, environment: pytest.MonkeyPatch) -> None:
    site.sql('ALTER TABLE generations ADD COLUMN "Prompt" json')
    site.add("a", "u1/a.jpg")
    site.sql("""UPDATE generations SET "Prompt" = '"A Walk"'""")
    site.add("b", "u1/sea.jpg")
    environment.setenv("LENS_TITLE_COLUMN", "prompt")
    wrong = site.lens("backfill", "--dry-run")
    assert wrong.code == 2
    assert "LENS_TITLE_COLUMN names prompt, which is no column of table generations" in wrong.err
    environment.setenv("LENS_TITLE_COLUMN", "Prompt")
    assert site.lens("backfill", "--dry-run").code == 0
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url) as web:
        titles = {one["id"]: one["title"] for one in _page(web)["generations"]}
        assert titles == {"a": '"A Walk"', "b": "sea"}
        assert _found(web, q="walk") == ["a"]
        assert _found(web, q="SEA") == ["b"]


def test_shots_have_the_titles_of_their_files(site: Site, web: httpx.Client) -> None:
    project = Project(site)
    site.add("g", "u1/uploads/g/Dune.mp4", type="video")
    project.asset("a", generation_id="g")
    project.asset("b", asset_url="https://h.example/My%20cut.mov")
    project.asset("c", generation_id="gone")
    assets = web.get(f"/api/projects/{PROJECT}/assets").json()["assets"]
    assert {one["asset_id"]: one["title"] for one in assets} == {
        "a": "Dune",
        "b": "My cut",
        "c": None,
    }


def test_a_film_is_renamed_and_a_name_used_twice_is_told(site: Site, web: httpx.Client) -> None:
    project = Project(site)
    project.asset("s", asset_url="https://h.example/s.mp4")
    project.master("m1", ["s"], "Фильм")
    project.master("m2", ["s"], "Other")
    before = site.sql("SELECT updated_at FROM master_videos WHERE master_id = 'm2'")
    renamed = web.patch(f"{_MASTERS}/m2", json={"name": " фильм "})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "фильм")
    assert renamed.json()["same_name"] == ["m1"]
    assert web.get(f"{_MASTERS}/m2").json()["name"] == "фильм"
    # Its video stays as it is.
    assert site.sql("SELECT updated_at FROM master_videos WHERE master_id = 'm2'") == before
    third = web.post(_MASTERS, json={"name": "Solo (1)", "shots": ["s"]})
    assert (third.status_code, third.json()["same_name"]) == (201, [])
    for wrong in ({"name": " "}, {"name": "a\nb"}, {}, {"name": "x", "shots": []}):
        assert web.patch(f"{_MASTERS}/m2", json=wrong).status_code == 400
    assert web.patch(f"{_MASTERS}/none", json={"name": "x"}).status_code == 404
