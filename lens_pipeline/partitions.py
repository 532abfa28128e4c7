"""The partition sets, and the one check of what may become a partition key."""

import re

import dagster as dg

# Interface: also what may become part of an object key.
KEY_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

photos = dg.DynamicPartitionsDefinition(name="photos")
videos = dg.DynamicPartitionsDefinition(name="videos")
masters = dg.DynamicPartitionsDefinition(name="masters")
shots = dg.DynamicPartitionsDefinition(name="shots")
scaled = dg.DynamicPartitionsDefinition(name="scaled")
# Of reports; days are UTC. No site has an older one.
days = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC")


def key_problem(what: str, value: str) -> str | None:
    """Why `value` may not become a partition key or part of an object key, or None if it may.

    Dagster itself accepts empty keys, newlines and `a...b`, which it then reads as a range.
    """
    if value == "":
        return f"{what} is empty"
    if len(value) > 128:
        return f"{what} has {len(value)} characters, over the limit of 128"
    if not KEY_PATTERN.fullmatch(value):
        return f"{what} {value!r} may only have letters, digits, _ . - and not start with _ . -"
    if ".." in value:
        return f"{what} {value!r} contains '..'"
    return None
