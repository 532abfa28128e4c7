"""The partition sets: one of keys for each name in the registry, and the days of reports."""

import dagster as dg

# Days are UTC. No site has an older report.
days = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC")


def partition_set(name: str) -> dg.DynamicPartitionsDefinition:
    """The set of that name; two of one name are equal."""
    return dg.DynamicPartitionsDefinition(name=name)
