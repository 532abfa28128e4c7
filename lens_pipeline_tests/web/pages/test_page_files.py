"""What the pages are made of, as a browser is given it."""

import gzip
import json
import re
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline import web as web_package
from lens_pipeline.definitions import job
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.context import Context
from lens_pipeline.web.translations import TEXTS, Language
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.caller_override import become

pytestmark = pytest.mark.slow

_WEB = Path(web_package.__file__).parent
_FILES = sorted((_WEB / "static").iterdir())


@pytest.mark.parametrize("page", ["library", "masters"])
@pytest.mark.parametrize(("accepted", "language"), [("ru-RU", "ru"), ("fr, en", "en")])
def test_pages_in_the_language_of_the_browser(
    web: httpx.Client, page: str, accepted: str, language: str
) -> None:
    answer = web.get(f"/{page}", headers={"Accept-Language": accepted})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Content-Language"] == language
    assert "Accept-Language" in answer.headers["Vary"]
    texts = TEXTS[Language(language)]
    assert f'<html lang="{language}">' in answer.text
    assert f"<title>{texts[f'{page}.title']} ·" in answer.text
    block = re.search(r'<script type="application/json" id="texts">(.*?)</script>', answer.text)
    assert block is not None
    assert json.loads(block[1]) == texts


@pytest.mark.parametrize("page", ["", "library", "masters", "login"])
def test_a_page_answers_whoever_only_asks_for_its_head(web: httpx.Client, page: str) -> None:
    """`curl -I`, which says that the site is not there."""
    asked, got = web.head(f"/{page}"), web.get(f"/{page}")
    assert (asked.status_code, asked.content) == (got.status_code, b"")


@pytest.mark.parametrize("page", ["library", "masters"])
def test_nothing_in_a_page_needs_a_laxer_policy(web: httpx.Client, page: str) -> None:
    """Inline scripts and styles are what strangers' markup would be, too."""
    text = web.get(f"/{page}").text
    scripts = re.findall(r"<script([^>]*)>", text)
    assert len(scripts) == 2
    assert all("src=" in script or "application/json" in script for script in scripts)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    # Each part of a page may have a file of styles.
    linked = set(re.findall(r'(?:src|href)="([^"]*)"', text))
    styles = {one for one in linked if re.fullmatch(r"/static/[a-z]+\.css", one)}
    assert linked - styles == {
        *("/static/lens.svg", f"/static/{page}.js"),
        *("#content", "#connection", "/library", "/masters"),
        *(["#icon-bell"] if page == "masters" else []),
    }


def test_scripts_are_there_and_asked_for_each_time(web: httpx.Client) -> None:
    for file in _FILES:
        answer = web.get(f"/static/{file.name}")
        assert answer.status_code == 200
        assert answer.content == file.read_bytes()
        assert answer.headers["Cache-Control"] == "no-cache"
        again = web.get(f"/static/{file.name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    assert "javascript" in web.get("/static/library.js").headers["Content-Type"]
    for path in ("/static/", "/static/none.js", "/static/..%2fpages.py", "/static/%2e%2e/pages.py"):
        assert web.get(path).status_code == 404, path


@pytest.mark.parametrize("page", ["library", "masters"])
def test_a_page_has_at_most_60_kb_of_scripts(page: str) -> None:
    """Compressed, with every module that it may load: a phone waits for each of them."""
    names, sizes = [f"{page}.js"], {}
    while names:
        name = names.pop()
        script = (_WEB / "static" / name).read_bytes()
        sizes[name] = len(gzip.compress(script))
        imported = re.findall(r"\"\./([\w-]+\.js)\"", script.decode())
        names += [one for one in imported if one not in sizes]
    assert sum(sizes.values()) <= 60_000, sizes


@pytest.mark.parametrize(
    ("who", "first", "names"),
    [
        (Caller(), "/library", ["library", "masters"]),
        (Caller(user_id='ann"><script>'), "/library", ["library"]),
        (Caller(project_id="p1"), "/masters", ["masters"]),
    ],
)
def test_a_page_shows_what_is_of_use_to_its_reader(
    app: FastAPI, web: httpx.Client, who: Caller, first: str, names: list[str]
) -> None:
    become(app, who)
    assert web.get("/").headers["Location"] == first
    text = web.get(first).text
    for other in {"/library", "/masters"} - {f"/{name}" for name in names}:
        assert web.get(other).headers["Location"] == first
    assert re.findall(r'<a href="/(\w+)"', text) == names
    # Whoever reaches Dagster's UI may do anything.
    has_dagster = 'data-dagster-port=""' not in text
    assert has_dagster == (who == Caller())
    assert '"><script>' not in text


def test_a_page_links_to_the_dagster_ui_where_people_find_it(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_DAGSTER_PUBLIC_URL", "https://dagster.example.org/ui")
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url) as web:
        address = 'data-dagster-url="https://dagster.example.org/ui"'
        assert address in web.get("/library").text
        become(app, Caller(user_id="ann"))
        assert address not in web.get("/library").text


def test_an_unknown_path_is_a_page_for_people_and_json_for_programs(web: httpx.Client) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Accept-Language": "ru"}
    for path in ("/nothing", "/api/nothing"):
        page, program = web.get(path, headers=browser), web.get(path)
        assert (page.status_code, page.headers["Content-Language"]) == (404, "ru")
        assert "Такой страницы нет" in page.text
        assert re.findall(r'<a class="button" href="(/\w+)"', page.text) == ["/library", "/masters"]
        assert "<script" not in page.text
        assert (program.status_code, program.json()["error"]) == (404, "not_found")
    assert web.post("/nothing", headers=browser).status_code == 404
    assert web.post("/api/projects", headers=browser).json()["error"] == "method_not_allowed"


def test_projects_are_listed(site: Site, app: FastAPI, web: httpx.Client) -> None:
    assert web.get("/api/projects").json() == {"projects": []}
    project = Project(site)
    for name in ("c", "a", "b", "a"):
        number = len(site.sql("SELECT FROM project_assets"))
        project.asset(f"shot-{number}", project_id=name, asset_url="x.mp4")
    assert web.get("/api/projects").json() == {"projects": ["a", "b", "c"]}
    assert web.get("/api/projects?limit=2").json() == {"projects": ["a", "b"]}
    project.master("m1", ["shot-0"])  # of project p1
    assert web.get("/api/projects").json() == {"projects": ["p1", "a", "b", "c"]}
    become(app, Caller(project_id="b"))
    assert web.get("/api/projects").json() == {"projects": ["b"]}
    become(app, Caller(user_id="u1"))
    assert web.get("/api/projects").status_code == 403


def test_projects_with_uuids_are_listed(site: Site, web: httpx.Client) -> None:
    """A host's own tables may hold ids as uuid."""
    one, other = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    site.sql("ALTER TABLE project_assets ALTER project_id TYPE uuid USING project_id::uuid")
    project = Project(site)
    project.asset("a", project_id=other)
    project.asset("b", project_id=one)
    assert web.get("/api/projects").json() == {"projects": [one, other]}
