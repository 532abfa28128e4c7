"""What may become a partition key or part of an object key, and one form of UUIDs."""

import re
import uuid

KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def key_problem(what: str, value: str) -> str | None:
    """Dagster takes empty keys and newlines, and reads `a...b` as a range."""
    if value == "":
        return f"{what} is empty"
    if len(value) > 128:
        return f"{what} has {len(value)} characters, over the limit of 128"
    if not KEY_PATTERN.fullmatch(value):
        return f"{what} {value!r} may only have letters, digits, _ . - and not start with _ . -"
    if ".." in value:
        return f"{what} {value!r} contains '..'"
    return None


def canonical_uuid(value: str) -> str | None:
    """As PostgreSQL writes it, in lower case; None: no UUID of 36 characters."""
    try:
        canonical = str(uuid.UUID(value))
    except ValueError:
        return None
    return canonical if canonical == value.lower() else None
