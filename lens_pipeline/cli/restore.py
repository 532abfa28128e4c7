"""The command `restore`: originals of rows that are gone."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lens_pipeline.cli.session import dagster_session, json_option, print_json
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.core.startup import say
from lens_pipeline.errors import DerivativeError

if TYPE_CHECKING:
    from lens_pipeline.derivatives.restore import RestoredOriginal

_STATES = {
    "gone": "its original is not deleted any more; to insert its row again, with the path as"
    " asset_url:",
    "unfinished": "its original is not deleted any more; its row is there, but is not finished: run"
    " this again when it is",
    "recorded": "its original is recorded anew, as its row is there: files are made of it from now"
    " on",
    "extra": "no original of it was written here, but further results of its task, such as this"
    " one: they are not deleted any more",
}


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--to",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Also copy the files there.",
)
@json_option
def restore(ids: tuple[str, ...], directory: Path | None, as_json: bool) -> None:
    """Keep the originals of deleted rows, and say what is needed to insert the rows again.

    Within LENS_RETAIN_ORIGINALS_DAYS. The rows themselves are for the application to insert; of one
    that is back, the original is recorded anew, also if its link is dead or another one. Exit
    status: 1 if one cannot be restored.
    """
    from lens_pipeline.derivatives.restore import NotRestored
    from lens_pipeline.derivatives.restore import restore as restore_original

    found: list[RestoredOriginal] = []
    failures: dict[str, str] = {}
    with (
        dagster_session("restore") as lens,
        scratch_directory(lens.pipeline.settings.scratch) as scratch,
    ):
        for row_id in dict.fromkeys(ids):
            try:
                one = restore_original(lens.pipeline, lens.instance, row_id, directory or scratch)
            except (NotRestored, DerivativeError) as error:
                failures[row_id] = str(error)
                continue
            found.append(one)
            if directory is None:
                (scratch / one.name).unlink()
    if as_json:
        print_json({"restored": [asdict(one) for one in found], "failures": failures})
    else:
        for one in found:
            _print(one)
        for row_id, reason in failures.items():
            say(f"lens: {row_id}: {reason}")
    sys.exit(1 if failures else 0)


def _print(one: "RestoredOriginal") -> None:
    print(f"{one.id}: {_STATES[one.row]}")
    values = asdict(one)
    for name in ("type", "user_id", "finished_at", "bytes", "sha256", "path"):
        print(f"  {name}: {values[name]}")
