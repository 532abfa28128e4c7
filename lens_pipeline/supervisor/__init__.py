"""Processes and embedded servers of one machine."""
