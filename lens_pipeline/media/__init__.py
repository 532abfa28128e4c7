"""Pictures and videos: paths and frozen specs in, bytes out. Knows no Dagster, SQL or store."""
