"""The partition sets that the registry names."""

import dagster as dg


def partition_set(name: str) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=name)
