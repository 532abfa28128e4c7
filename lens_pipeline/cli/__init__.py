"""The `lens` command: the list of its commands, and how errors end it."""

import importlib
import logging
import sys
from typing import TYPE_CHECKING, NamedTuple

import click
from click.exceptions import NoSuchCommand

from lens_pipeline.core.logs import speaks_json
from lens_pipeline.errors import DerivativeError, LensError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Interface: 1 something failed, 2 wrong usage or settings.
_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130


class _Entry(NamedTuple):
    module: str
    line: str
    """In `lens --help`."""
    examples: tuple[str, str]


# Modules are imported late. None of them imports Dagster, which takes longer than all else:
# functions that work with it do, once the arguments are known.
_GROUPS: dict[str, dict[str, _Entry]] = {
    "Run": {
        "up": _Entry(
            "up",
            "Run and supervise every process of this machine.",
            ("lens up", "LENS_API_PORT=8080 lens up"),
        ),
        "demo": _Entry(
            "up",
            "Run the pipeline on sample photos, videos and a master.",
            ("lens demo", "lens demo --exit-when-done"),
        ),
        "run": _Entry(
            "role",
            "Be one process of the pipeline, in the foreground.",
            ("lens run daemon", "lens run api"),
        ),
        "worker": _Entry(
            "up",
            "Run one more worker, on this or any other machine.",
            ("lens worker --queue previews", "lens worker --queue masters --concurrency 2"),
        ),
        "health": _Entry(
            "role",
            "Say whether a process started by `run` or `worker` lives.",
            ("lens health", "lens health worker-previews"),
        ),
    },
    "Look": {
        "status": _Entry(
            "inspect",
            "Show how everything stands, or where single files do, and why.",
            ("lens status", "lens status ID --json"),
        ),
        "dead-letters": _Entry(
            "inspect",
            "List what was given up on, and why.",
            ("lens dead-letters", "lens dead-letters --class SourceMissing --since 2026-11-01"),
        ),
        "report": _Entry(
            "inspect",
            "Show what became of the files of each day.",
            ("lens report", "lens report --days 30 --json"),
        ),
        "verify": _Entry(
            "inspect",
            "Say which stored files are gone or damaged.",
            ("lens verify", "lens verify --all --json"),
        ),
        "doctor": _Entry(
            "setup",
            "Check everything the pipeline needs.",
            ("lens doctor", "lens doctor --json"),
        ),
    },
    "Work": {
        "add": _Entry(
            "add",
            "Insert a finished generation from a file or URL.",
            ("lens add photo.jpg", "lens add shots/ --project trailer"),
        ),
        "once": _Entry(
            "work",
            "Do what needs doing now, in this process.",
            ("lens once", "lens once --limit 100 --json"),
        ),
        "backfill": _Entry(
            "work",
            "Make missing and failed derivatives.",
            ("lens backfill --dry-run", "lens backfill --kind video --concurrency 8"),
        ),
        "retry": _Entry(
            "work",
            "Try again what failed or was given up on.",
            ("lens retry ID", "lens retry --all"),
        ),
        "adopt": _Entry(
            "adoption.adopt",
            "Record what an older system left, without making it again.",
            ("lens adopt --dry-run", "lens adopt --masters 'films/master_{id}_*.mp4'"),
        ),
        "import-sqlite": _Entry(
            "adoption.import_sqlite",
            "Bring the projects and films of an old SQLite database over.",
            (
                "lens import-sqlite old.db --media old-files/ --dry-run",
                "lens import-sqlite old.db --media old-files/",
            ),
        ),
        "restore": _Entry(
            "restore",
            "Keep the originals of deleted rows, and tell what the rows were.",
            ("lens restore ID", "lens restore ID --json"),
        ),
        "remove-missing": _Entry(
            "work",
            "Delete the derivatives of rows that are gone.",
            ("lens remove-missing", "lens remove-missing --yes --now"),
        ),
    },
    "Set up": {
        "migrate": _Entry(
            "setup",
            "Create the tables where absent.",
            ("lens migrate --check", "lens migrate --sql --role lens | psql"),
        ),
        "token": _Entry(
            "setup",
            "Print a token for the HTTP app that sees one user or project alone.",
            ("lens token --user 42", "lens token --project trailer --days 30"),
        ),
        "alert-test": _Entry(
            "setup",
            "Send a test message to every address of LENS_ALERT_URLS.",
            ("lens alert-test", "LENS_ALERT_URLS=json://localhost:9000 lens alert-test"),
        ),
        "webhooks": _Entry(
            "webhooks",
            "List, test and repeat what LENS_WEBHOOK_URLS and LENS_NOTIFY_URLS are told.",
            ("lens webhooks list", "lens webhooks replay --since 2026-11-01"),
        ),
        "completion": _Entry(
            "completion",
            "Print the script by which a shell completes commands and options.",
            ('eval "$(lens completion bash)"', "lens completion fish > lens.fish"),
        ),
    },
}
_COMMANDS = {name: entry for group in _GROUPS.values() for name, entry in group.items()}


def _epilog(*examples: str) -> str:
    """Lines that click does not fill, below the options."""
    return "\n  ".join(["\b\nExamples:", *examples])


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        entry = _COMMANDS[cmd_name]
        module = importlib.import_module(f"{__name__}.{entry.module}")
        command = getattr(module, cmd_name.replace("-", "_"))
        command.epilog = _epilog(*entry.examples)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            # Of the names, not of loaded commands.
            raise NoSuchCommand(error.command_name, possibilities=_COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, entries in _GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(name, entry.line) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """By name, without the commands' modules: people wait for it at each key."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=entry.line)
            for name, entry in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_epilog("lens demo", "lens add photo.jpg", "lens status"),
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
