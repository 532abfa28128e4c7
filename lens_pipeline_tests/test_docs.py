"""What the documentation says of settings, commands and other pages is true."""

import re
from pathlib import Path

import pytest

from docs.__main__ import FOLDER, PAGES, rendered
from lens_pipeline.settings import INTERNAL, PREFIX, Settings, load

ROOT = FOLDER.parent
MARKDOWN = [
    path
    for folder in (".", "docs", "deploy", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
]
NAMES = {PREFIX + name.upper() for name in Settings.model_fields} | INTERNAL


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_what_the_code_says(page: str) -> None:
    """A setting or an option that was added or changed; `make docs` mends it."""
    assert (FOLDER / page).read_text() == rendered(page)


def test_every_setting_has_a_meaning() -> None:
    """An empty line in the table of settings."""
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []


def test_the_readme_is_read_in_two_minutes() -> None:
    """A README that grows by every fact which has a place in docs/."""
    assert len((ROOT / "README.md").read_bytes()) <= 8_000


def test_the_example_of_settings_is_valid() -> None:
    """A line of `.env.example` that stops the start as soon as it is used."""
    text = (ROOT / ".env.example").read_text()
    pairs = re.findall(r"^# ([A-Z0-9_]+)=(.*)$", text, re.MULTILINE)
    _, warnings = load(dict(pairs) | {"LENS_API_TOKEN": "0123456789abcdef"}, dotenv=None)
    assert (len(pairs) > 10, warnings) == (True, [])


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    """A setting that was renamed, and is still recommended."""
    named = set(re.findall(r"\bLENS_[A-Z0-9_]*[A-Z0-9]\b(?!_)", path.read_text()))
    assert named - NAMES == set()


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    """A page or heading that was moved."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name) if name else path
        assert page.exists(), target
        if anchor:
            assert anchor in _anchors(page.read_text()), target


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
