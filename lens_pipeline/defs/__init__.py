"""Dagster's nouns, a file each; a definition is glue of at most 15 lines."""
