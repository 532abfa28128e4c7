"""Celery workers: the app, the processes, how they join and leave."""
