"""The formats of a film as people order, watch and save them."""

import re
import zipfile
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from lens_pipeline.event_log.history import ReportedProgress, Stage
from lens_pipeline.web.translations import TEXTS, Language
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.pages.browser import browser_page, launched
from lens_pipeline_tests.web.run_queue import execute_queued

pytestmark = pytest.mark.slow

URL = f"/api/projects/{PROJECT}"
_PAGE = f"/masters?project={PROJECT}"
_ENGLISH, _RUSSIAN = TEXTS[Language.ENGLISH], TEXTS[Language.RUSSIAN]
_PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def project(site: Site) -> Project:
    """Its film “Seaside” has twelve seconds."""
    made = Project(site)
    made.shot("a")
    made.master("m1", ["a"] * 12, "Seaside")
    site.once()
    return made


def _base(web: httpx.Client) -> str:
    return str(web.base_url).rstrip("/")


def _choose(dialog: Locator, *names: str) -> None:
    for name in names:
        dialog.get_by_label(name, exact=True).check()


def _ready(page: Page, count: int) -> None:
    expect(page.locator(".piece[data-status=ready]")).to_have_count(count)


def _order_by_hand(page: Page, dialog: Locator) -> None:
    """Two crops of two fragments, after some mistakes."""
    summary = dialog.locator(".summary")
    expect(summary).to_have_text("1 video: 1 format")
    _choose(dialog, "1:1", "Crop")
    dialog.get_by_role("slider", name="What must stay, from left to right").press("End")
    box = dialog.locator(".focus-picture").bounding_box()
    frame = dialog.locator(".focus-frame").bounding_box()
    assert box and frame
    assert abs(box["x"] + box["width"] - frame["x"] - frame["width"]) < 1
    _choose(dialog, "In fragments")
    expect(dialog.get_by_label("Longest, s")).to_have_value("12")
    for name, wrong, said, right in (
        ("Fragments a format", "0", "1 to 100 fragments can be made of each format.", "2"),
        ("Shortest, s", "20", "The longest fragment cannot be shorter than the shortest.", "2"),
        ("To second", "0", "The end must be after the beginning.", ""),
        ("Longest, s", "30", str(_ENGLISH["problem.outside_film"]), "3"),
    ):
        dialog.get_by_label(name).fill(wrong)
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text(said)
        dialog.get_by_label(name).fill(right)
        expect(dialog.get_by_role("alert")).to_be_empty()
    expect(summary).to_have_text(re.compile("^4 videos: 2 formats . 2 fragments · 2 to 3 s each$"))


def _fail(page: Page, dialog: Locator) -> None:
    """Attempts at one order have one id; another order has another."""
    ids: list[str] = []
    page.route("**/renditions", lambda route: route.abort())
    for longest in ("3", "3", "4", "3"):
        dialog.get_by_label("Longest, s").fill(longest)
        with page.expect_request("**/renditions") as request:
            page.keyboard.press("Enter")
        ids.append(request.value.post_data_json["order_id"])
        expect(dialog.get_by_role("alert")).not_to_be_empty()
        expect(dialog.get_by_role("button", name="Make them")).to_be_enabled()
    page.unroute("**/renditions")
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def _save(page: Page, dialog: Locator) -> None:
    """One, and all of them."""
    with page.expect_download() as one:
        dialog.get_by_role("link", name="Download “Seaside 9x16 02”").click()
    assert one.value.suggested_filename == "Seaside 9x16 02.mp4"
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download all: 1:1, 9:16 · Crop").click()
    assert download.value.suggested_filename == "Seaside.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        names = [f"Seaside {shape} 0{n}.mp4" for shape in ("1x1", "9x16") for n in (1, 2)]
        assert archive.namelist() == names
        assert archive.read(names[-1]) == one.value.path().read_bytes()


def test_formats_are_ordered_watched_and_saved(
    site: Site, web: httpx.Client, project: Project, browser: Browser
) -> None:
    with browser_page(browser, _base(web), accept_downloads=True) as visit:
        page = visit.open(_PAGE)
        page.get_by_role("button", name="Formats of “Seaside”…").click()
        dialog = page.get_by_role("dialog", name="Formats of “Seaside”")
        # Each way to fill it, as this film looks.
        fills = dialog.locator(".choice .fit-shape[data-fill] .front")
        expect(fills).to_have_count(3)
        assert fills.first.evaluate("one => one.decode().then(() => one.naturalWidth)")
        _order_by_hand(page, dialog)
        visit.require_usable()
        _fail(page, dialog)
        visit.complaints[:] = [one for one in visit.complaints if "ERR_FAILED" not in one]
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("heading", name="1:1, 9:16 · Crop")).to_be_focused()
        expect(dialog.locator(".piece")).to_have_count(4)
        # One run makes them all, and tells of itself once.
        (run, *_) = site.runs()
        said = ReportedProgress("42 %: scaling", 42, Stage.SCALING, 110)
        site.dagster.add_run_tags(run.run_id, said.tags)
        expect(dialog.locator(".piece-state").filter(has_text="Scaling · 42")).to_have_count(4)
        execute_queued(site)
        _ready(page, 4)
        expect(dialog.locator(".order-words p")).to_have_text("4 videos · Ready")
        # Frames of the fragments, and not four times the poster.
        expect(dialog.locator(".piece .front[src^='data:image/webp']")).to_have_count(4)
        visit.require_usable()
        page.get_by_role("button", name="Watch “Seaside 9x16 02”").click()
        video = page.get_by_role("dialog", name="Seaside 9x16 02").locator("video")
        expect(video).to_have_js_property("paused", False)
        assert video.evaluate("one => one.videoHeight > one.videoWidth")
        visit.require_usable()
        page.keyboard.press("Escape")
        _save(page, dialog)
        dialog.get_by_role("button", name="Delete “Seaside 1x1 01”").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
        expect(dialog.locator(".piece")).to_have_count(3)
        dialog.get_by_role("button", name="Delete all: 1:1, 9:16 · Crop").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
        expect(dialog.locator(".piece")).to_have_count(0)
        assert site.sql("SELECT scaled_id FROM scaled_videos") == []
        page.keyboard.press("Escape")
        expect(page.locator(".formats-line")).to_be_hidden()


def test_a_failed_format_is_tried_again_by_a_russian_with_a_phone(
    site: Site, web: httpx.Client, project: Project, browser: Browser
) -> None:
    body = {"formats": ["96x128", "128x96"], "fill": "black", "order_id": "o1"}
    web.post(f"{URL}/master-videos/m1/renditions", json=body).raise_for_status()
    (video,) = site.store.glob("masters/**/*.mp4")
    whole = video.read_bytes()
    video.write_bytes(b"no film")
    execute_queued(site)
    video.write_bytes(whole)
    with browser_page(browser, _base(web), locale="ru-RU", viewport=_PHONE) as visit:
        page = visit.open(_PAGE)
        line = page.locator(".formats-line")
        expect(line).to_have_text("2 видео · готово 0 из 2 · 2 не удалось")
        name = str(_RUSSIAN["formats.open_named"]).format(name="Seaside")
        page.get_by_role("button", name=name).click()
        pieces = page.locator(".piece")
        expect(pieces).to_have_count(2)
        expect(pieces.first.locator(".piece-state")).not_to_be_empty()
        visit.require_usable()
        page.get_by_role("button", name=re.compile("^Повторить неудавшиеся")).click()
        expect(page.locator(".piece[data-status=processing]")).to_have_count(2)
        assert execute_queued(site) == 1
        _ready(page, 2)
        expect(page.locator(".toast")).to_contain_text("Форматы фильма «Seaside»: Готово")
        page.get_by_label("Свой", exact=True).check()
        expect(page.locator(".summary")).to_have_text(str(_RUSSIAN["formats.wrong_size"]))
        page.get_by_label("Ширина в пикселях").fill("1")
        page.get_by_label("Высота в пикселях").fill("20000")
        page.get_by_role("button", name="Нарезать").click()
        expect(page.locator(".format-form [role=alert]")).to_have_text(
            str(_RUSSIAN["problem.impossible_size"])
        )
        visit.complaints[:] = [one for one in visit.complaints if "status of 400" not in one]
