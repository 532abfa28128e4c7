"""How Dagster runs here: workers, storage, processes. Private Dagster imports only here."""
