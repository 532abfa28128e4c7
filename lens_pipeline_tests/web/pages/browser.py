"""Pages as people see them: visits with a real browser, which notice what no page may do."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from lens_pipeline_tests.web.pages import chromium

# Sums up what moved by itself, and says what did.
_WATCH_SHIFTS = """
window.shifted = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    const named = ({node}) => (node?.outerHTML ?? node?.parentElement?.outerHTML)?.slice(0, 80);
    shifted.push([entry.value, ...entry.sources.map(named)]);
  }
}).observe({type: "layout-shift", buffered: true});
"""
# Fields whose widest choice does not fit in.
_CUT_CHOICES = """
() => [...document.querySelectorAll("select")].filter((select) => {
  const whole = select.parentElement.appendChild(select.cloneNode(true));
  Object.assign(whole.style, {position: "absolute", width: "auto"});
  const needed = whole.offsetWidth;
  whole.remove();
  return select.checkVisibility() && needed > select.offsetWidth;
}).map((select) => select.outerHTML.slice(0, 100))
"""
_END_ANIMATIONS = """
() => document.getAnimations()
  .filter((one) => one.effect.getComputedTiming().endTime !== Infinity)
  .forEach((one) => one.finish())
"""
_AXE = Axe()
# For a machine that runs other tests at the same time.
_PATIENCE_MS = 15_000
_NEED_A_NAME = {
    *("button", "link", "textbox", "searchbox", "combobox", "checkbox", "progressbar"),
    *("dialog", "list", "navigation", "Video", "region", "search"),
}


@dataclass
class BrowserPage:
    """One page in a browser, and what it did that it should not."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("request", lambda request: self._asked(request.url))

    def open(self, path: str) -> Page:
        self.page.goto(self.base + path)
        return self.page

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text} {message.location}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.base:
            self.complaints.append(f"asks elsewhere: {url}")

    def shifts(self) -> Any:
        """What moved although nobody did anything."""
        return self.page.evaluate("shifted")

    def require_usable(self) -> None:
        """Fail unless every control has a name, text can be read and nothing is cut off."""
        wide = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{wide} px too wide"
        _require_none("not accessible", self._findings())
        _require_none("choices cut off", self.page.evaluate(_CUT_CHOICES))
        _require_none("without a name", self._nameless())
        ids = self.page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
        _require_none("ids twice", [one for one in set(ids) if ids.count(one) > 1])

    def _findings(self) -> list[str]:
        """What axe-core finds: roles, names, contrast, headings."""
        # What fades in meanwhile is not hard to read: it is found once alone.
        return self._examined() and self._examined()

    def _examined(self) -> list[str]:
        self.page.evaluate(_END_ANIMATIONS)
        found = _AXE.run(self.page).response["violations"]
        return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]

    def _nameless(self) -> list[Any]:
        """Controls without a name, in the eyes of a screen reader."""
        session = self.page.context.new_cdp_session(self.page)
        tree = session.send("Accessibility.getFullAXTree")["nodes"]
        session.detach()
        return [
            json.dumps(node)[:300]
            for node in tree
            if not node.get("ignored")
            and node["role"]["value"] in _NEED_A_NAME
            and not node.get("name", {}).get("value", "").strip()
        ]


def _require_none(what: str, found: Sequence[Any]) -> None:
    assert not found, f"{what}: {found}"


@contextmanager
def browser_page(browser: Browser, base: str, **options: Any) -> Iterator[BrowserPage]:
    """A visit by somebody with these preferences; fails at its end if anything was amiss."""
    context = browser.new_context(**{"locale": "en-US", "reduced_motion": None, **options})
    context.set_default_timeout(_PATIENCE_MS)
    context.add_init_script(_WATCH_SHIFTS)
    visit = BrowserPage(context.new_page(), base)
    try:
        yield visit
        shifts = visit.shifts()
    finally:
        context.close()
    _require_none("not allowed", visit.complaints)
    _require_none("moved by itself", shifts)


@contextmanager
def launched() -> Iterator[Browser]:
    """The machine's Chromium; fails, not skips, where there is none."""
    found = chromium.find()
    if found is None:
        pytest.fail(f"none of {', '.join(chromium.NAMES)} is on PATH: apt install chromium")
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=chromium.ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
