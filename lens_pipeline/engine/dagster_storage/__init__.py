"""Dagster's storage on PostgreSQL, over pooled connections."""
