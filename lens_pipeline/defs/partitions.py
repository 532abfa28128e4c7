"""The partition sets: those that the registry names, and the days of reports."""

import dagster as dg

# Days are UTC. No site has an older report.
days = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC")


def partition_set(name: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=name)
