"""The `lens` command."""

import logging
import sys

import click

from lens_pipeline.catalog import CatalogError
from lens_pipeline.cli import inspect, run, setup, work
from lens_pipeline.failures import DerivativeError
from lens_pipeline.settings import SettingsError
from lens_pipeline.stack.endpoints import StackError

# Interface: 1 something failed, 2 wrong usage or settings.
_FAILED, _USAGE = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lens-pipeline")
def lens() -> None:
    """Previews and posters of AI-generated photos and videos.

    Settings are LENS_… variables, also read from ./.env; see the README for each.
    """


for command in (
    run.up,
    run.demo,
    run.worker,
    work.once,
    work.backfill,
    work.adopt,
    work.retry,
    work.add,
    inspect.status,
    inspect.dead_letters,
    setup.doctor,
    setup.migrate,
):
    lens.add_command(command)


def main() -> None:
    """Run the command; what people can mend ends it with one line, not a traceback."""
    try:
        lens(prog_name="lens", standalone_mode=True)
    except (SettingsError, StackError, CatalogError, DerivativeError) as error:
        logging.getLogger(__name__).debug("", exc_info=error)
        print(f"lens: {error}", file=sys.stderr)
        sys.exit(_FAILED if isinstance(error, DerivativeError) else _USAGE)
    except KeyboardInterrupt:
        print("lens: interrupted", file=sys.stderr)
        sys.exit(130)
