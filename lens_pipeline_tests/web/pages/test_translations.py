"""The pages' texts: whole in each language, with one for every state and error."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import lens_pipeline
from lens_pipeline.catalog.rows import ShotProblem
from lens_pipeline.derivatives.holds import Hold
from lens_pipeline.errors import DerivativeError, TransientError
from lens_pipeline.event_log.history import RUN_ERRORS, Stage, State
from lens_pipeline.reasons import REASONS, UNFORESEEN
from lens_pipeline.web.translations import TEXTS, Language, Text, choose_language

# CLDR's categories of whole numbers, by which `Intl.PluralRules` chooses; `other`: of fractions.
_FORMS = {Language.ENGLISH: {"one", "other"}, Language.RUSSIAN: {"one", "few", "many", "other"}}
# Keys that the scripts put together from an answer of the API, by their beginning.
_FAMILIES = {
    "state": {state.value for state in State} | {"generating", "not_generated"},
    "type": {"photo", "video"},
    "nav": {"library", "masters"},
    "action": {"previous", "next"},
    "login": {"wrong", "stale", "often"},
    "method": {"copy", "partial", "encode"},
    "stage": {*Stage, "begun"},
    "hold": {*Hold, "next", "soon"},
    "shot": {*ShotProblem},
    "provenance": {"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"},
    "credentials": {"valid", "trusted", "invalid", "unreadable"},
    "problem": {
        *("database_unavailable", "store_unavailable", "forbidden", "not_found", "not_failed"),
        *("internal_error", "deletion_off", "in_use", "invalid_request", "id_taken", "not_ready"),
        *("too_many_archives", "too_many_generations"),
    },
}


def _parts(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else list(text.values())


def _subclasses(base: type[Exception]) -> Iterator[type[Exception]]:
    for one in base.__subclasses__():
        yield one
        yield from _subclasses(one)


def test_every_class_of_error_says_what_it_means_and_what_to_do() -> None:
    """An error that a card names by its class, in one language, or like another one."""
    for module in pkgutil.walk_packages(lens_pipeline.__path__, "lens_pipeline."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = {
        one.__name__
        for one in _subclasses(DerivativeError)
        if one.__module__.startswith("lens_pipeline.") and one is not TransientError
    }
    assert set(REASONS) == {*classes, *RUN_ERRORS, UNFORESEEN}
    assert {frozenset(reasons) for reasons in REASONS.values()} == {frozenset(Language)}
    for language in Language:
        meanings = [reasons[language].meaning for reasons in REASONS.values()]
        assert len(meanings) == len(set(meanings)), language
        for name, reasons in REASONS.items():
            assert reasons[language].advice.endswith("."), name


def test_every_state_and_error_has_a_text() -> None:
    """A page that shows nothing, or a class name, where it builds the key from an answer."""
    built = {f"{family}.{name}" for family, names in _FAMILIES.items() for name in names}
    assert built - set(TEXTS[Language.ENGLISH]) == set()


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
