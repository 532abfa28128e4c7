"""Statuses for SQL readers: the views `lens_generations` and `lens_master_videos`.

Dagster's tables lie in another database: statuses are copied to a table behind each view, which
decides nothing and can be made anew.
"""
