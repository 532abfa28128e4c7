"""The films of a project as people see them: their shots, their formats, and what they wait for."""

import json
import re
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect

from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import MASTER
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.history import ReportedProgress, Stage
from lens_pipeline.web.translations import TEXTS, Language
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.pages.browser import BrowserPage, browser_page, launched
from lens_pipeline_tests.web.run_queue import execute_queued

pytestmark = pytest.mark.slow

URL = f"/api/projects/{PROJECT}"
_PAGE = f"/masters?project={PROJECT}"
_RUSSIAN = TEXTS[Language.RUSSIAN]
_PHONE = {"width": 390, "height": 844}
# A page that nobody looks at, and what it tells them.
_AWAY = """
window.told = [];
window.Notification = class extends EventTarget {
  static permission = "default";
  static async requestPermission() { return (Notification.permission = "granted"); }
  constructor(words, options) { super(); told.push([words, options.tag]); }
};
"""
_LOOK_AWAY = """
() => Object.defineProperty(document, "visibilityState", {get: () => "hidden", configurable: true})
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


def _base(web: httpx.Client) -> str:
    return str(web.base_url).rstrip("/")


def _film(page: Page, master_id: str) -> Locator:
    return page.locator(f".master[data-id='{master_id}']")


def _order(web: httpx.Client, master_id: str, shots: list[str], name: str) -> None:
    body = {"name": name, "shots": shots, "master_id": master_id}
    web.post(f"{URL}/master-videos", json=body).raise_for_status()


def _requests(visit: BrowserPage) -> list[str]:
    """What the page asks the API from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if "/api/" in request.url:
            asked.append(request.url)

    visit.page.on("request", note)
    return asked


def test_a_film_with_its_shots_and_its_formats(
    site: Site, web: httpx.Client, project: Project, browser: Browser
) -> None:
    for name in ("a", "b"):
        project.shot(name)
    _order(web, "m1", ["b", "a", "b"], "Seaside")
    execute_queued(site)
    site.once()
    project.rendition("s1", "m1", width=128, height=96)
    project.rendition("s2", "m1", width=96, height=128, start=0.5, end=1.5)
    site.once()
    with browser_page(browser, _base(web), accept_downloads=True) as visit:
        page = visit.open(_PAGE)
        film = _film(page, "m1")
        names = film.locator(".strip-name")
        expect(names).to_have_text(["1 b", "2 a", "3 b"])
        expect(film.locator(".strip .length").first).to_have_text("0:01")
        expect(film.locator(".strip img")).to_have_count(3)
        expect(film.locator(".formats-line")).to_have_text("2 videos · Ready")
        visit.require_usable()
        film.get_by_role("button", name="Formats of “Seaside”…").click()
        dialog = page.get_by_role("dialog", name="Formats of “Seaside”")
        expect(dialog.get_by_role("heading", name="Ordered one by one")).to_be_visible()
        pieces = dialog.locator(".piece")
        expect(pieces.filter(has_text=re.compile("96 . 128 0:01.0:02"))).to_contain_text("0:01")
        with page.expect_download() as download:
            dialog.get_by_role("link", name="Download “Seaside 128x96”").click()
        assert download.value.suggested_filename == "Seaside 128x96.mp4"
        dialog.get_by_role("button", name="Watch “Seaside 128x96”").click()
        video = page.get_by_role("dialog", name="Seaside 128x96").locator("video")
        expect(video).to_have_js_property("videoWidth", 128)


def test_what_was_said_of_a_form_goes_when_it_is_changed(
    site: Site, web: httpx.Client, project: Project, browser: Browser
) -> None:
    """“Choose at least one shot.” beside three chosen ones; and two films of one name."""
    for name in ("a", "b"):
        project.shot(name)
    project.master("m1", ["a"], "Seaside")
    with browser_page(browser, _base(web)) as visit:
        page = visit.open(_PAGE)
        error = page.locator("#create-error")
        page.get_by_role("button", name="Create master").click()
        expect(error).to_have_text("Choose at least one shot.")
        page.get_by_role("button", name="Add a", exact=True).click()
        expect(error).to_be_empty()
        page.get_by_role("button", name="Create master").click()
        expect(error).to_have_text("Give it a name.")
        page.get_by_label("Name", exact=True).fill("SEASIDE")
        expect(error).to_be_empty()
        expect(page.get_by_text("Another film of this project has this name.")).to_be_visible()
        page.route("**/master-videos", lambda route: route.abort())
        page.get_by_label("Name", exact=True).press("Enter")
        expect(error).to_have_text("The server cannot be reached.")
        page.get_by_role("button", name="Add b", exact=True).click()
        expect(error).to_be_empty()
        page.get_by_role("button", name="Rename “Seaside”").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Name").fill(" ")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("Give it a name.")
        dialog.get_by_label("Name").fill("Harbour")
        expect(dialog.get_by_role("alert")).to_be_empty()
        page.keyboard.press("Enter")
        expect(_film(page, "m1").get_by_role("heading")).to_have_text("Harbour")
        assert site.sql("SELECT name FROM master_videos WHERE master_id = 'm1'") == [("Harbour",)]
        page.unroute("**/master-videos")
        # From another project back to an address that names none.
        visit.open("/masters")
        expect(page).to_have_title(re.compile(PROJECT))
        page.get_by_label("Project", exact=True).fill("other")
        page.keyboard.press("Enter")
        expect(page).to_have_title(re.compile("other"))
        page.go_back()
        expect(page).to_have_title(re.compile(PROJECT))
        expect(_film(page, "m1")).to_be_visible()
        visit.complaints[:] = [one for one in visit.complaints if "ERR_FAILED" not in one]


def test_a_film_says_what_it_waits_for_and_for_how_long(
    site: Site, web: httpx.Client, project: Project, browser: Browser
) -> None:
    """Half in English for a Russian, and a speed in place of a time."""
    project.shot("a")
    site.add("late", None, type="video", status="generating")
    project.asset("late", generation_id="late")
    _order(web, "m1", ["a"], "Лето")
    _order(web, "m2", ["a", "late"], "Гавань")
    (run,) = site.runs()
    with browser_page(browser, _base(web), locale="ru-RU", viewport=_PHONE) as visit:
        visit.page.add_init_script(_AWAY)
        page = visit.open(_PAGE)
        detail = _film(page, "m1").locator(".detail")
        expect(detail).to_have_text(str(_RUSSIAN["hold.worker"]))
        late = _film(page, "m2")
        expect(late.locator(".detail")).to_have_text("Ожидает 1 клип: late")
        reason = str(_RUSSIAN["shot.waits"]).format(status="generating")
        expect(late.locator(".awaited")).to_have_text(f"late {reason}")
        expect(late.locator(".strip-shot[data-state=waits]")).to_have_count(1)
        visit.require_usable()
        said = ReportedProgress("42 %: encoding shot a, about 110 s left", 42, Stage.ENCODING, 110)
        site.dagster.add_run_tags(run.run_id, said.tags)
        whole = re.compile(r"^Кодирование · 42\s% · осталось примерно 2\sмин$")
        expect(detail).to_have_text(whole)
        page.reload()
        expect(detail).to_have_text(whole)
        bell = page.get_by_role("button", name=str(_RUSSIAN["notify.button"]))
        expect(bell).to_have_attribute("aria-pressed", "false")
        bell.click()
        expect(bell).to_have_attribute("aria-pressed", "true")
        page.evaluate(_LOOK_AWAY)
        execute_queued(site)
        expect(_film(page, "m1")).to_have_attribute("data-status", "ready")
        words = str(_RUSSIAN["masters.done"]).format(name="Лето")
        assert page.evaluate("told") == [[words, "m1"]]


def test_many_long_films_cost_few_requests(
    site: Site, web: httpx.Client, project: Project, browser: Browser
) -> None:
    """A page that asks for every film and every shot by itself."""
    shots = [f"shot-{number:03}" for number in range(100)]
    site.sql(
        "INSERT INTO project_assets (asset_id, project_id, asset_url)"
        " SELECT id, :project, 'https://example.org/' || id || '.mp4' FROM unnest(:ids) AS id",
        project=PROJECT,
        ids=shots,
    )
    site.sql(
        "INSERT INTO master_videos (master_id, project_id, name, shots_config, updated_at)"
        " SELECT 'm' || n, :project, 'Film ' || n, CAST(:shots AS jsonb), now() - interval '1 h'"
        "   FROM generate_series(1, 200) AS n",
        project=PROJECT,
        shots=json.dumps(shots),
    )
    with browser_page(browser, _base(web)) as visit:
        asked = _requests(visit)
        page = visit.open(_PAGE)
        expect(page.locator(".master")).to_have_count(60)
        for count in (120, 180, 200):
            page.get_by_role("button", name="Show more").last.click()
            expect(page.locator(".master")).to_have_count(count)
        expect(page.locator(".master").first.locator(".strip-shot")).to_have_count(100)
        # The projects, the events, two lists of shots, and four pages of films.
        assert len(asked) <= 9, asked
        # Those that nobody has scrolled to have no tiles.
        assert page.locator(".strip-shot").count() <= 5000
        asked.clear()
        RunQueue(site.pipeline, site.dagster, job).submit(
            {MASTER: [f"m{number}" for number in range(141, 201)]}, "api"
        )
        expect(page.locator(".master[data-status=processing]")).to_have_count(60)
        # Two or three a second, not one a film.
        assert len(asked) <= 20, asked


@pytest.fixture
def no_masters(site: Site) -> None:
    site.sql("DROP TABLE project_assets, master_videos, scaled_videos")


@pytest.mark.usefixtures("no_masters")
def test_a_site_without_tables_of_masters_is_told_so(web: httpx.Client, browser: Browser) -> None:
    """A page that says for ever that the database does not answer now."""
    body = {"name": "Film", "shots": ["a"]}
    for method, path in (
        *(("GET", f"{URL}/{name}") for name in ("master-videos", "assets", "scaled-videos")),
        *(("GET", "/api/projects"), ("GET", f"{URL}/master-videos/m1/video")),
        ("POST", f"{URL}/master-videos"),
    ):
        answer = web.request(method, path, json=body if method == "POST" else None)
        assert (answer.status_code, answer.json()["error"]) == (404, "masters_off"), path
        assert "`lens migrate --masters`" in answer.json()["message"]
    with browser_page(browser, _base(web)) as visit:
        page = visit.open("/masters")
        expect(page.get_by_role("heading", name="Masters are off")).to_be_visible()
        expect(page.locator("main")).to_contain_text("lens migrate --masters")
        visit.require_usable()
