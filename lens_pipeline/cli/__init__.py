"""The `lens` command."""

import sys

import click

from lens_pipeline.cli import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lens-pipeline")
def lens() -> None:
    """Previews and posters of AI-generated photos and videos."""


lens.add_command(run.worker)


def main() -> None:
    """Run the command; wrong settings and unusable services end it with one line, not a traceback."""
    lens(prog_name="lens")
