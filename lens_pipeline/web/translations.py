"""The texts of the pages by language. Messages of the API and of commands are not here."""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from lens_pipeline.reasons import REASONS

_FOLDER = Path(__file__).parent / "texts"


class Language(StrEnum):
    """The first is the default."""

    ENGLISH = "en"
    RUSSIAN = "ru"


Text = str | Mapping[str, str]
"""With a number in it: a text for each plural category of CLDR."""


def _texts(language: Language) -> Mapping[str, Text]:
    texts = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    for name, reasons in REASONS.items():
        texts[f"class.{name}"] = reasons[language].meaning
        texts[f"advice.{name}"] = reasons[language].advice
    return texts


TEXTS: Mapping[Language, Mapping[str, Text]] = {one: _texts(one) for one in Language}


def choose_language(accept_language: str) -> Language:
    """The language that `Accept-Language` (RFC 9110) prefers."""
    best, best_weight = next(iter(Language)), 0.0
    for part in accept_language.split(","):
        tag, _, parameter = part.partition(";")
        primary = tag.strip().lower().partition("-")[0]
        weight = _weight(parameter)
        if primary in {language.value for language in Language} and weight > best_weight:
            best, best_weight = Language(primary), weight
    return best


def _weight(parameter: str) -> float:
    """The number of `q=0.5`; 1 without one, 0 for nonsense."""
    name, _, value = parameter.strip().partition("=")
    if not name:
        return 1.0
    digits = value.strip()
    is_number = digits.replace(".", "", 1).isdecimal() and digits.isascii()
    return min(float(digits), 1.0) if name.strip().lower() == "q" and is_number else 0.0
