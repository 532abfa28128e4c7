"""The partition sets."""

import dagster as dg

photos = dg.DynamicPartitionsDefinition(name="photos")
videos = dg.DynamicPartitionsDefinition(name="videos")
masters = dg.DynamicPartitionsDefinition(name="masters")
shots = dg.DynamicPartitionsDefinition(name="shots")
scaled = dg.DynamicPartitionsDefinition(name="scaled")
# Of reports; days are UTC. No site has an older one.
days = dg.DailyPartitionsDefinition(start_date="2025-01-01", timezone="UTC")
