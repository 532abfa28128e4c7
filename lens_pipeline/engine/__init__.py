"""How Dagster runs here: warm Celery workers, pooled PostgreSQL. The only place for private Dagster imports."""
