"""Commands that only look: status, dead-letters."""

import sys
from dataclasses import asdict

import click

from lens_pipeline.cli.session import print_json, session
from lens_pipeline.derivatives import dead_letters as letters
from lens_pipeline.event_log.history import State

_UNKNOWN = "no generation, master or scaled video has this id"


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(ids: tuple[str, ...], as_json: bool) -> None:
    """Say where each ID stands: none, processing, ready, failed or dead, and why.

    Exit status 1: one has failed, was given up on, or is not known.
    """
    found: list[dict] = []
    is_well = True
    with session("status") as lens:
        for row_id in ids:
            reports = letters.report(lens.pipeline, row_id)
            found += [asdict(report) for report in reports]
            if not reports:
                reason = letters.why_not(lens.pipeline, row_id)
                is_well = is_well and reason is not None
                error = reason or _UNKNOWN
                found.append({"id": row_id, "kind": None, "state": "none", "error": error})
    if as_json:
        print_json({"status": found})
    else:
        for entry in found:
            print(_line(entry))
    is_well = is_well and not any(entry["state"] in (State.FAILED, State.DEAD) for entry in found)
    sys.exit(0 if is_well else 1)


def _line(entry: dict) -> str:
    words = [entry["id"], entry.get("asset") or "", entry["state"]]
    if entry.get("progress"):
        words.append(entry["progress"])
    if entry.get("waits"):
        words.append(f"waits: {entry['waits']}")
    if entry.get("path"):
        words.append(entry["path"])
    if entry.get("error_class"):
        words.append(f"{entry['error_class']} (attempt {entry['attempts']}):")
    if entry.get("error"):
        words.append(entry["error"])
    return " ".join(word for word in words if word)


@click.command("dead-letters")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def dead_letters(as_json: bool) -> None:
    """List what was given up on, and why."""
    with session("dead-letters") as lens:
        found = letters.dead_letters(lens.pipeline)
    if as_json:
        print_json({"dead_letters": [asdict(letter) for letter in found]})
        return
    for letter in found:
        source = f" from {letter.source!r}" if letter.source else ""
        print(f"{letter.kind} {letter.id!r}{source}: {letter.error_class}: {letter.error}")
    print(letters.counted(len(found)) + (": `lens retry ID` tries again" if found else ""))
