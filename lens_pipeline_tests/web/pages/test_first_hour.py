"""The first hour of a new user: from an empty library to a film, without the command line."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lens_pipeline_tests.media.samples import scene, write_video
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.stack import Stack
from lens_pipeline_tests.web.pages.browser import browser_page, launched

pytestmark = [pytest.mark.slow, pytest.mark.stack]

_READY_MS = 60_000
_MOST_SECONDS = 180
_DROP = """
([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(bytes)], name, {type: "image/png"}));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true});
    document.body.dispatchEvent(event);
    if (kind === "dragover") window.invited = !document.getElementById("drop").hidden;
  }
}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("first") / "home") as stack:
        yield stack


def _videos(directory: Path) -> list[Path]:
    paths = [directory / "Dunes at dawn.mp4", directory / "Вечер.mp4"]
    for seed, path in enumerate(paths):
        write_video(path, [scene(160, 120, seed=seed * 24 + n) for n in range(24)])
    return paths


def test_from_an_empty_library_to_a_film(stack: Stack, tmp_path: Path) -> None:
    """A page that can only be filled from a shell."""
    videos = _videos(tmp_path)
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    fake = tmp_path / "fake.mp4"
    fake.write_text("no video")
    began = time.monotonic()
    base = f"http://127.0.0.1:{stack.api_port}"
    with launched() as browser, browser_page(browser, base) as visit:
        page = visit.open("/library")
        expect(page.get_by_role("heading", name="Nothing here yet")).to_be_visible()
        visit.require_usable()
        with page.expect_file_chooser() as chosen:
            page.locator("#empty").get_by_role("button", name="Add files…").click()
        chosen.value.set_files([*videos, notes, fake])
        expect(page.locator(".card")).to_have_count(2)
        faults = page.get_by_role("list", name="Files that were not added").get_by_role("listitem")
        expect(faults).to_have_count(2)
        for name in ("notes.txt", "fake.mp4"):
            expect(faults.filter(has_text=name)).to_contain_text("no photo or video")
        visit.require_usable()
        page.get_by_role("region", name="Files being added").get_by_role("button").click()
        page.evaluate(_DROP, ["Sky.png", [*sources.png()]])
        assert page.evaluate("invited")
        expect(page.locator(".card")).to_have_count(3)
        _search(page)
        _film(page, [video.stem for video in videos])
        # What the browser says of an answer of 415.
        visit.complaints[:] = [one for one in visit.complaints if "415" not in one]
    assert time.monotonic() - began < _MOST_SECONDS


def _search(page: Page) -> None:
    field = page.get_by_role("searchbox", name="Search")
    field.fill("вечер")
    field.press("Enter")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.get_by_role("button", name="Вечер, Video of me")).to_be_visible()
    assert "q=" in page.url
    field.fill("")
    field.press("Enter")
    expect(page.locator(".card")).to_have_count(3)


def _film(page: Page, titles: list[str]) -> None:
    page.get_by_role("link", name="Masters").click()
    page.locator("#empty").get_by_role("button", name="New project").click()
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    page.get_by_role("button", name="Add videos…").click()
    dialog = page.get_by_role("dialog")
    for title in titles:
        dialog.get_by_role("checkbox", name=title).check()
    dialog.get_by_role("button", name="Add 2 videos").click()
    expect(page.locator(".asset")).to_have_count(2)
    for shot in page.locator(".asset").all():
        shot.click()
    page.get_by_role("textbox", name="Name").fill("My first film")
    page.get_by_role("button", name="Create master").click()
    expect(page.locator(".master[data-status=ready]")).to_have_count(1, timeout=_READY_MS)
