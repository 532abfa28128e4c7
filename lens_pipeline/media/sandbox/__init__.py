"""Processes that render: the pool, its workers, their messages, and the rights they give up."""
