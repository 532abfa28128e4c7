"""Reads and prunes Dagster's tables: the only SQL on them outside `engine/`."""
