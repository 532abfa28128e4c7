"""The versions and settings that workers must share with the process that plans their runs.

Else a worker makes outdated files again and again, or files that are never found.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

from lens_pipeline import VERSION
from lens_pipeline.derivatives.registry import PARAMETER_SETTINGS, entries
from lens_pipeline.settings import PREFIX, Settings

_VERSIONS = {"lens-pipeline": VERSION, "dagster": version("dagster")}


@dataclass(frozen=True, slots=True)
class Release:
    """Facts sorted by name, without secrets."""

    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        facts = _VERSIONS | {f"code of {entry.asset}": entry.code_version for entry in entries()}
        names = ("digital_source_type", *PARAMETER_SETTINGS.values())
        facts |= {f"{PREFIX}{name.upper()}": str(getattr(settings, name)) for name in names}
        # Where its files lie may differ.
        facts["LENS_C2PA_CERT"] = "set" if settings.c2pa_cert else "not set"
        facts["LENS_STORE_URL"] = settings.resolved_store_url
        return cls(tuple(sorted(facts.items())))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError: `text` is no release."""
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError("a release is an object of facts")  # noqa: TRY004 - as of json.loads
        return cls(tuple(sorted((str(name), str(value)) for name, value in facts.items())))

    def to_json(self) -> str:
        return json.dumps(dict(self.facts))

    @property
    def id(self) -> str:
        """Part of the names of the broker's queues."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]

    def differences(self, other: "Release") -> str:
        """In words: `dagster is 1.13.27, not 1.13.26`."""
        ours, theirs = dict(self.facts), dict(other.facts)
        return "; ".join(
            f"{name} is {ours.get(name, 'unknown')}, not {theirs.get(name, 'unknown')}"
            for name in sorted(ours.keys() | theirs.keys())
            if ours.get(name) != theirs.get(name)
        )
