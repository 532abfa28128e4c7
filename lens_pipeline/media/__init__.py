"""Rendering: paths and frozen specs in, files or bytes out. No Dagster, SQL or object store."""
