"""Which version of the pipeline runs."""

from importlib.metadata import version

VERSION = version("lens-pipeline")
"""As of the start of this process: what is installed may be replaced while it runs."""
