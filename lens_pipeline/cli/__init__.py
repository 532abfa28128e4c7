"""The `lens` command: the list of its commands, and how errors end it."""

import importlib
import logging
import sys

import click

from lens_pipeline.core.logs import speaks_json
from lens_pipeline.errors import DerivativeError, LensError

# Interface: 1 something failed, 2 wrong usage or settings.
_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130

# Name → module and line in `lens --help`. Modules are imported late. None of them imports Dagster,
# which takes longer than all else: functions that work with it do, once the arguments are known.
_COMMANDS = {
    "up": ("up", "Run and supervise every process of this machine."),
    "demo": ("up", "Run the pipeline on sample photos, videos and a master."),
    "run": ("role", "Be one process of the pipeline, in the foreground."),
    "health": ("role", "Say whether a process started by `run` or `worker` lives."),
    "worker": ("up", "Run one more worker, on this or any other machine."),
    "once": ("work", "Do what needs doing now, in this process."),
    "backfill": ("work", "Make missing and failed derivatives."),
    "adopt": ("adopt", "Record derivatives that already lie in the store."),
    "status": ("inspect", "Say where generations and masters stand, and why."),
    "report": ("inspect", "Show what became of the files of each day."),
    "dead-letters": ("inspect", "List what was given up on, and why."),
    "verify": ("inspect", "Say which stored files are gone or damaged."),
    "retry": ("work", "Try again what failed or was given up on."),
    "restore": ("restore", "Keep the originals of deleted rows, and tell what the rows were."),
    "remove-missing": ("work", "Delete the derivatives of rows that are gone."),
    "add": ("add", "Insert a finished generation from a file or URL."),
    "token": ("setup", "Print a token for the HTTP app that sees one user or project alone."),
    "doctor": ("setup", "Check everything the pipeline needs."),
    "alert-test": ("setup", "Send a test message to every address of LENS_ALERT_URLS."),
    "migrate": ("setup", "Create the tables where absent."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{_COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="lens-pipeline")
def lens() -> None:
    """Previews, posters and master videos of AI-generated photos and videos.

    Settings are LENS_… variables, also read from ./.env; docs/settings.md explains each. `lens
    COMMAND --help` tells more of a command.
    """


def main() -> None:
    """Run the command; a LensError ends it with one line."""
    try:
        lens(prog_name="lens")
    except LensError as error:
        _tell(str(error))
        sys.exit(_FAILED if isinstance(error, DerivativeError) else _USAGE)
    except KeyboardInterrupt:
        _tell("interrupted")
        sys.exit(_INTERRUPTED)


def _tell(line: str) -> None:
    if speaks_json():
        logging.getLogger("lens").error("%s", line)
    else:
        print(f"lens: {line}", file=sys.stderr)
