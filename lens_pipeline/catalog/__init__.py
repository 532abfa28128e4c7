"""SQL on the application's tables, and nothing else."""
