"""What the Dagster UI shows of definitions and files for people to see; nothing depends on it."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import dagster as dg

from lens_pipeline.catalog.rows import MasterVideo, Row
from lens_pipeline.core.endpoints import without_password
from lens_pipeline.derivatives.registry import WEBP_EFFORT, Derivative
from lens_pipeline.settings import Settings

OWNERS = ["team:lens-pipeline"]

# Stands for any row in the pattern of an object key.
_ROW: Any = SimpleNamespace(
    id="{id}",
    user_id="{user_id}",
    project_id="{project_id}",
    master=SimpleNamespace(project_id="{project_id}"),
)


def code_of(function: Callable[..., Any]) -> dict[str, dg.CodeReferencesMetadataValue]:
    """Metadata with the place of a function, in a checkout or an installation.

    Dagster's `with_source_code_references` would name one function for all assets.
    """
    code = function.__code__
    reference = dg.LocalFileCodeReference(
        file_path=code.co_filename, line_number=code.co_firstlineno
    )
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}


def facts(derivative: Derivative, settings: Settings) -> Mapping[str, str | float]:
    """Metadata with where the files of a derivative go, and how they are made."""
    if derivative.extension is None:
        return {}
    made: dict[str, str | float] = {
        "store": without_password(settings.resolved_store_url),
        "object_key": derivative.object_key(_ROW, "{revision}"),
    }
    made |= derivative.setting_values(settings)
    if derivative.extension != "webp":
        return made
    return {**made, "edge": derivative.picture_edge(settings), "effort": WEBP_EFFORT}


def links_of(derivative: Derivative, row: Row, key: str) -> dg.MarkdownMetadataValue:
    """The picture at `key` and what belongs to it, by addresses that need the login of the UI."""
    if isinstance(row, MasterVideo):
        url = f"/lens/api/projects/{row.project_id}/master-videos/{row.id}"
        whole, more = f"{url}/poster", f"[video]({url}/video) · [masters](/lens/masters)"
    else:
        url = f"/lens/api/generations/{row.id}"
        whole = f"{url}/{derivative.asset}"
        more = f"[original]({url}/file) · [library](/lens/library)"
    return dg.MetadataValue.md(f"[![{derivative.asset}](/lens/pictures/{key})]({whole})\n\n{more}")
