"""Process plumbing without domain words: logs, databases, locks, files, ports. No Dagster."""
