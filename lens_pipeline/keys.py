"""Object keys, and the revision that says whether an output still matches its sources."""

import hashlib
import json

from lens_pipeline.catalog import Generation


def preview_key(generation: Generation) -> str:
    return f"{generation.user_id}/previews/{generation.id}_preview.webp"


def poster_key(generation: Generation) -> str:
    return f"{generation.user_id}/posters/{generation.id}_poster.webp"


def revision(sources: list[str], key: str, parameters: dict[str, int], code_version: str) -> str:
    """First 12 hex digits of a SHA-256 over everything that determines an output.

    `sources` are the ordered identities of what it is made from; `key` is where it is stored.
    """
    identity = json.dumps([sources, key, parameters, code_version], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
