"""Dagster pipeline that makes previews, posters and masters of AI-generated photos and videos."""

from importlib.metadata import version

VERSION = version("lens-pipeline")
"""As of the start of this process: what is installed may be replaced while it runs."""
