"""The pages' texts: whole in each language, and none that a page lacks."""

import re
from pathlib import Path

import pytest

from lens_pipeline import errors, web
from lens_pipeline.derivatives.dead_letters import EXPLAINED
from lens_pipeline.errors import DerivativeError
from lens_pipeline.event_log.history import State
from lens_pipeline.web.translations import TEXTS, Language, Text, choose_language

_WEB = Path(web.__file__).parent
_SCRIPTS = sorted((_WEB / "static").glob("*.js"))
_TEMPLATES = [
    _WEB / "templates" / f"{name}.html" for name in ("page", "library", "masters", "login")
]
# CLDR's categories of whole numbers, by which `Intl.PluralRules` chooses; `other`: of fractions.
_FORMS = {Language.ENGLISH: {"one", "other"}, Language.RUSSIAN: {"one", "few", "many", "other"}}
# Keys that are put together, by their beginning.
_FAMILIES = {
    "state": {state.value for state in State} | {"generating", "not_generated"},
    "type": {"photo", "video"},
    "nav": {"library", "masters"},
    "action": {"previous", "next"},
    "login": {"wrong", "stale", "often"},
    "method": {"copy", "partial", "encode"},
    "problem": {
        *("database_unavailable", "store_unavailable", "forbidden", "not_found", "not_failed"),
        "internal_error",
    },
    "class": {
        *EXPLAINED,
        *(
            name
            for name, value in vars(errors).items()
            if isinstance(value, type)
            and issubclass(value, DerivativeError)
            and name not in ("DerivativeError", "TransientError")
        ),
    },
}


def _parts(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else list(text.values())


def _used() -> set[str]:
    """Every key that a page or script asks for."""
    sources = "\n".join(path.read_text() for path in [*_SCRIPTS, *_TEMPLATES])
    keys = set(re.findall(r'"([a-z]+\.[a-z_]+)"', sources))
    built = {f"{family}.{name}" for family, names in _FAMILIES.items() for name in names}
    titles = {"library.title", "masters.title"}
    return {key for key in keys if key.partition(".")[0] in _sections()} | built | titles


def _sections() -> set[str]:
    return {key.partition(".")[0] for key in TEXTS[Language.ENGLISH]}


def test_every_text_that_is_used_exists_and_no_other() -> None:
    assert set(TEXTS[Language.ENGLISH]) == _used()


def test_the_families_of_keys_are_all_that_are_put_together() -> None:
    sources = "\n".join(path.read_text() for path in [*_SCRIPTS, *_TEMPLATES])
    found = set(re.findall(r"(?:t\(|texts\[)`([a-z]+)\.\$\{", sources)) | set(
        re.findall(r'"([a-z]+)\." ~', sources)
    )
    assert found == set(_FAMILIES)


@pytest.mark.parametrize("language", Language)
def test_a_language_is_whole(language: Language) -> None:
    english = TEXTS[Language.ENGLISH]
    assert set(TEXTS[language]) == set(english)
    for key, text in TEXTS[language].items():
        if not isinstance(text, str):
            assert set(text) == _FORMS[language], key
        wanted = set(re.findall(r"\{(\w+)\}", _parts(english[key])[0]))
        for part in _parts(text):
            assert part.strip(), key
            assert set(re.findall(r"\{(\w+)\}", part)) == wanted, key


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("ru", "ru"),
        ("ru-RU,ru;q=0.9,en-US;q=0.8,en;q=0.7", "ru"),
        ("en-GB,ru;q=0.9", "en"),
        ("de-DE,de;q=0.9,ru;q=0.5,en;q=0.4", "ru"),
        ("ru;q=0.3,en;q=0.8", "en"),
        ("RU", "ru"),
        ("ru;q=0", "en"),
        ("ru;q=x,", "en"),
        ("ru;q=-1", "en"),
        ("ru;q=1e9", "en"),
        ("*;q=0.5", "en"),
        (";;,,;q=1;", "en"),
    ],
)
def test_the_browser_chooses_the_language(accepted: str, language: str) -> None:
    assert choose_language(accepted) == language
