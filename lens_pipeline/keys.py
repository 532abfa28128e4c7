"""Object keys, and the revision that says whether an output still matches its sources."""

import hashlib
import json
from collections.abc import Mapping

from lens_pipeline.catalog.rows import Generation, MasterVideo, ScaledVideo

Parameters = Mapping[str, float | None]


def preview_key(generation: Generation) -> str:
    return f"{generation.user_id}/previews/{generation.id}_preview.webp"


def poster_key(generation: Generation) -> str:
    return f"{generation.user_id}/posters/{generation.id}_poster.webp"


def master_stem(master: MasterVideo) -> str:
    """The key of a master's video and poster without revision and suffix."""
    return f"masters/{master.project_id}/master_{master.id}"


def scaled_stem(scaled: ScaledVideo) -> str:
    """The key of a rendition without revision and suffix; one without a master is never made."""
    project_id = scaled.master.project_id if scaled.master else ""
    return f"scaled/{project_id}/{scaled.id}"


def revision(sources: list[str], key: str, parameters: Parameters, code_version: str) -> str:
    """First 12 hex digits of a SHA-256 over everything that determines an output.

    `sources` are the ordered identities of what it is made from; `key` is where it is stored.
    """
    identity = json.dumps([sources, key, parameters, code_version], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
