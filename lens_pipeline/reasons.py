"""What each class of error means and what to do about it, for pages, commands and Dagster.

The words are in `reasons.json`, in every language of the pages; `errors.py` has the classes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Reason(NamedTuple):
    meaning: str
    advice: str
    """A sentence that says what a person can do."""

    @property
    def text(self) -> str:
        return f"{self.meaning}. {self.advice}"


REASONS: Mapping[str, Mapping[str, Reason]] = {
    name: {language: Reason(**words) for language, words in languages.items()}
    for name, languages in json.loads(
        Path(__file__).with_name("reasons.json").read_text(encoding="utf-8")
    ).items()
}
"""By name of the class and language."""

# Of errors that are no DerivativeError, and of classes of other versions.
UNFORESEEN = "Unforeseen"


def explain(error_class: str | None) -> Reason:
    """The English words, in which commands and Dagster speak."""
    return REASONS.get(error_class or "", REASONS[UNFORESEEN])["en"]
