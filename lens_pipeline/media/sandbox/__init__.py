"""Processes that render: the pool, its workers, and their messages."""
