"""Rendering in processes of its own that can be killed."""
