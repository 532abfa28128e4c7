"""How Dagster runs here: warm workers, pooled PostgreSQL. Private Dagster imports only here."""
