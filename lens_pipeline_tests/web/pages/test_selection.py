"""Several photos and videos at once: chosen, tried again, saved, made into a film, deleted."""

import datetime as dt
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, expect

from lens_pipeline.definitions import job
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.caller_override import become
from lens_pipeline_tests.web.pages.browser import BrowserPage, browser_page, launched

pytestmark = pytest.mark.slow

_PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
_ABOVE = """
() => {
  const told = document.getElementById("connection");
  told.textContent = "-";
  const bar = document.querySelector(".selection-bar [role=toolbar]").getBoundingClientRect();
  const isAbove = told.getBoundingClientRect().bottom <= bar.top;
  told.textContent = "";
  return isAbove;
}
"""
# Newest first.
_IDS = ["v1", "v2", "p1", "p2", "bad1", "bad2"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def app(site: Site, environment: pytest.MonkeyPatch, photo: Callable[[str], str]) -> FastAPI:
    """Where people may delete: two videos, two photos and two failures."""
    environment.setenv("LENS_DELETION", "true")
    project = Project(site)
    for name in ("v1", "v2"):
        project.shot(name)
    site.sql("DELETE FROM project_assets")
    for name in ("p1", "p2"):
        site.add(name, photo(name))
    for name in ("bad1", "bad2"):
        site.add(name, f"ftp://example.org/{name}.jpg")
    for hours, row_id in enumerate(_IDS):
        site.sql(
            "UPDATE generations SET updated_at = now() - make_interval(hours => :hours)"
            " WHERE id = :id",
            hours=hours,
            id=row_id,
        )
    site.once()
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


@pytest.fixture
def base(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


def _opened(page: Page) -> Page:
    expect(page.locator(".card[data-id]")).to_have_count(len(_IDS))
    return page


def _card(page: Page, row_id: str) -> Locator:
    return page.locator(f".card[data-id='{row_id}']")


def _chosen(page: Page) -> list[str]:
    """In the order that the numbers on the cards say."""
    found = page.locator(".card.selected").evaluate_all(
        "(all) => all.map((one) => [one.querySelector('.check').dataset.place, one.dataset.id])"
    )
    return [row_id for _, row_id in sorted(found, key=lambda one: int(one[0]))]


def _film_asked(page: Page) -> Locator:
    page.get_by_role("toolbar").get_by_role("button", name="Add to a project").click()
    dialog = page.get_by_role("dialog", name="Add to a project")
    dialog.get_by_label("Project").fill("trip")
    dialog.get_by_label("Name of a film").fill("Our trip")
    return dialog


def _require_archive(page: Page, file: Path, video: bytes) -> None:
    """Of v2, p1 and v1, which are chosen."""
    button = page.get_by_role("toolbar").get_by_role("button", name="Download")
    # A refusal, such as 429, does not take the page's place.
    page.context.route("**/archive", lambda route: route.fulfill(status=429, json={}))
    with page.context.expect_page() as refusal:
        button.click()
    refusal.value.close()
    page.context.unroute("**/archive")
    assert _chosen(page) == ["v2", "p1", "v1"]
    with page.expect_download() as download:
        button.click()
    download.value.save_as(file)
    assert re.fullmatch(r"lens-[0-9-]+\.zip", download.value.suggested_filename)
    with zipfile.ZipFile(file) as found:
        assert found.read("v1.mp4") == video
        assert len(found.namelist()) == 3


def _forgive_answers(visit: BrowserPage) -> None:
    """The browser itself tells of answers such as 404."""
    visit.complaints[:] = [one for one in visit.complaints if "the server responded" not in one]


def test_what_is_chosen_by_mouse_and_keyboard(base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        page = _opened(visit.open("/library"))
        bar = page.get_by_role("toolbar", name="Selected photos and videos")
        # Without a choice: what failed, at once.
        expect(bar.get_by_text("2 failed")).to_be_visible()
        _card(page, "v2").hover()
        _card(page, "v2").get_by_role("checkbox").click()
        expect(bar.get_by_text("1 selected")).to_be_visible()
        visit.require_usable()
        # Now a click chooses; with shift all in between, in that order.
        _card(page, "bad1").locator(".opener").click(modifiers=["Shift"])
        assert _chosen(page) == ["v2", "p1", "p2", "bad1"]
        _card(page, "p1").locator(".opener").click()
        assert _chosen(page) == ["v2", "p2", "bad1"]
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.keyboard.press("Escape")
        assert _chosen(page) == []
        expect(bar.get_by_text("2 failed")).to_be_visible()
        # The same by keyboard alone.
        _card(page, "p2").locator(".opener").focus()
        page.keyboard.press("x")
        _card(page, "v2").locator(".opener").focus()
        page.keyboard.press("Shift+Space")
        assert _chosen(page) == ["p2", "p1", "v2"]
        page.keyboard.press("Space")
        assert _chosen(page) == ["p2", "p1"]
        # A Russian keyboard has the same keys.
        _card(page, "v1").locator(".opener").dispatch_event("keydown", {"key": "ч", "code": "KeyX"})
        assert _chosen(page) == ["p2", "p1", "v1"]
        page.keyboard.press("Control+a")
        assert _chosen(page) == ["p2", "p1", "v1", "v2", "bad1", "bad2"]
        expect(page.locator("#announcer")).to_have_text("6 selected")
        page.get_by_label("Search").focus()
        page.keyboard.press("Control+a")
        page.keyboard.press("Escape")
        expect(bar.get_by_text("6 selected")).to_be_visible()
        bar.get_by_role("button", name="Clear the selection").click()
        assert "opener" in page.evaluate("document.activeElement.className")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()


def test_a_finger_chooses_by_a_long_press(base: str, browser: Browser) -> None:
    with browser_page(browser, base, locale="ru-RU", **_PHONE) as visit:
        page = _opened(visit.open("/library"))
        expect(_card(page, "v1").locator(".check")).to_be_hidden()
        one_line = page.get_by_role("toolbar").get_by_text("ошибкой: 2").bounding_box()
        assert one_line is not None
        assert one_line["height"] < 30
        box = _card(page, "v1").locator(".frame").bounding_box()
        assert box is not None
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session = page.context.new_cdp_session(page)
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        expect(page.get_by_role("toolbar").get_by_text("Выбрано: 1")).to_be_visible()
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert _chosen(page) == ["v1"]
        _card(page, "v2").locator(".opener").tap()
        assert _chosen(page) == ["v1", "v2"]
        page.get_by_role("button", name="Фильтр").tap()
        expect(page.get_by_label("Тип")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_label("Тип")).to_be_hidden()
        assert _chosen(page) == ["v1", "v2"]
        visit.require_usable()
        # What is told at the bottom stands above the bar.
        assert page.evaluate(_ABOVE)
        small = page.locator(".selection-bar button:visible").evaluate_all(
            "(all) => all.map((one) => one.getBoundingClientRect())"
            ".filter(({width, height}) => Math.min(width, height) < 44)"
        )
        assert small == []
        page.get_by_role("button", name="Снять выделение").tap()
        _card(page, "v1").locator(".opener").tap()
        expect(page.get_by_role("dialog")).to_be_visible()


def test_what_is_done_with_several(site: Site, base: str, browser: Browser, tmp_path: Path) -> None:
    with browser_page(browser, base, accept_downloads=True) as visit:
        page = _opened(visit.open("/library"))
        bar = page.get_by_role("toolbar")
        # One fails later, and a row may have gone since: that one is told, the others are tried.
        expect(bar.get_by_text("2 failed")).to_be_visible()
        site.add("bad3", "ftp://example.org/bad3.jpg")
        site.once()
        expect(bar.get_by_text("3 failed")).to_be_visible()
        site.sql("DELETE FROM generations WHERE id = 'bad2'")
        bar.get_by_role("button", name="Retry all").click()
        report = page.get_by_role("dialog", name="1 could not be done")
        expect(report.get_by_role("listitem")).to_have_text("bad2 It is not there any more.")
        expect(report.get_by_text("2 are being tried again")).to_be_visible()
        expect(report.locator("#announcer")).to_have_count(1)
        visit.require_usable()
        page.keyboard.press("Escape")
        expect(page.locator("body > #announcer, body > #toasts")).to_have_count(2)
        assert page.evaluate("document.activeElement !== document.body")
        expect(_card(page, "bad1")).to_have_attribute("data-status", "processing")
        expect(_card(page, "bad2")).to_have_count(0)

        for name in ("v2", "p1", "v1"):
            _card(page, name).locator(".opener").click(modifiers=["Control"])
        video = (site.store / "u1/uploads/v1.mp4").read_bytes()
        _require_archive(page, tmp_path / "saved.zip", video)

        dialog = _film_asked(page)
        expect(dialog.get_by_text("1 photo is left out")).to_be_visible()
        visit.require_usable()
        # A film that is refused is no video that failed.
        problem = {"error": "database_unavailable"}
        page.route("**/master-videos", lambda route: route.fulfill(status=503, json=problem))
        page.keyboard.press("Enter")
        expect(report.get_by_text("2 videos are now in the project")).to_be_visible()
        expect(report.get_by_role("listitem")).to_contain_text("Our trip The database does not")
        page.unroute("**/master-videos")
        page.keyboard.press("Escape")
        for name in ("v2", "p1", "v1"):
            _card(page, name).locator(".opener").click(modifiers=["Control"])
        _film_asked(page)
        page.keyboard.press("Enter")
        expect(page.get_by_text("The film “Our trip” is being made of 2 videos")).to_be_visible()
        with httpx.Client(base_url=f"{base}/api/projects/trip") as api:
            (master,) = api.get("/master-videos").json()["master_videos"]
            assets = api.get("/assets").json()["assets"]
        made_from = {asset["asset_id"]: asset["generation_id"] for asset in assets}
        assert [made_from[shot] for shot in master["shots"]] == ["v2", "v1"]
        assert _chosen(page) == []
        _forgive_answers(visit)


def test_deletion_can_be_undone_for_a_while(
    site: Site, app: FastAPI, base: str, browser: Browser
) -> None:
    Project(site).asset("a", generation_id="v1")

    def left() -> list[str]:
        return [row.id for row in site.sql("SELECT id FROM generations ORDER BY id")]

    with browser_page(browser, base) as visit:
        visit.page.clock.install()
        page = _opened(visit.open("/library"))
        bar = page.get_by_role("toolbar")
        for name in ("v1", "p1"):
            _card(page, name).locator(".opener").click(modifiers=["Control"])
        # From here on only as far as the test says.
        page.clock.pause_at(dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1))
        bar.get_by_role("button", name="Delete").focus()
        # Held down a little too long, it does not undo at once.
        page.keyboard.down("Enter")
        expect(bar.get_by_role("button", name="Undo")).to_be_focused()
        page.keyboard.down("Enter")
        page.keyboard.up("Enter")
        expect(bar.get_by_text("2 will be deleted")).to_be_visible()
        expect(bar.get_by_text("people added stay in the store")).to_be_visible()
        expect(bar.get_by_role("button", name="Undo")).to_be_focused()
        page.clock.fast_forward(8000)
        page.keyboard.press("Enter")
        expect(page.locator("#announcer")).to_have_text("Nothing was deleted")
        assert _chosen(page) == ["v1", "p1"]
        page.clock.fast_forward(8000)
        bar.get_by_role("button", name="Delete").click()
        page.clock.fast_forward(9000)
        assert left() == sorted(_IDS)
        page.clock.resume()
        # A film of a project may need it.
        report = page.get_by_role("dialog", name="1 could not be done")
        expect(report.get_by_role("listitem")).to_have_text("v1 A project uses it.")
        assert left() == sorted({*_IDS} - {"p1"})
        page.keyboard.press("Escape")
        expect(_card(page, "p1")).to_have_count(0)
        expect(_card(page, "v1")).to_be_visible()
        # A page that is closed deletes nothing.
        _card(page, "p2").locator(".opener").click(modifiers=["Control"])
        bar.get_by_role("button", name="Delete").click()
        page.goto("about:blank")
        become(app, Caller(user_id="u1"))
        page = visit.open("/library")
        _card(page, "p2").locator(".opener").click(modifiers=["Control"])
        expect(bar.get_by_role("button", name="Delete")).to_be_visible()
        expect(bar.get_by_role("button", name="Add to a project")).to_be_hidden()
        assert "p2" in left()
        _forgive_answers(visit)
