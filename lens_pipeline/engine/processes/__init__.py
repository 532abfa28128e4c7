"""Dagster's own processes as this product runs them."""
