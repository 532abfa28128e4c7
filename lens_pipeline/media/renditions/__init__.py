"""Renditions: parts of a master at requested sizes, many from one decode of it."""
