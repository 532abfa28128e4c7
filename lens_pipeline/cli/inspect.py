"""Commands that only look: status, dead-letters, verify, report."""

import datetime as dt
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict

import click

from lens_pipeline.cli.session import UNKNOWN_ID, print_json, session
from lens_pipeline.cli.tables import print_table
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.core.restarts import in_words, read_restarts
from lens_pipeline.core.startup import say
from lens_pipeline.derivatives import dead_letters as letters
from lens_pipeline.derivatives import store_audit
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import statuses_of_id
from lens_pipeline.event_log.daily import DayLog
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.monitoring.reports import archive, collect
from lens_pipeline.monitoring.reports.collect import DayReport
from lens_pipeline.reasons import explain

_STATUS = ("id", "kind", "asset", "state", "outdated", "path")
# Of what could not be made anew, those of the attempt.
_ATTEMPT = ("error", "error_class", "attempts", "run_id")
_LETTER = ("id", "kind", "error", "error_class", "attempts", "run_id", "source")


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(ids: tuple[str, ...], as_json: bool) -> None:
    """Say where each ID stands: none, processing, ready, failed or dead, and why.

    Without an ID, show the files of each kind by their state, how long the oldest has waited, the
    originals that are not saved, and what runs. Exit status 1: one has failed, was given up on, or
    is not known, or an original of a new row is not saved after an hour.
    """
    found: list[dict] = []
    is_well = True
    overview = None
    with session("status") as pipeline:
        for row_id in ids:
            statuses = statuses_of_id(pipeline, row_id)
            found += map(_entry, statuses)
            if not statuses:
                reason = letters.why_not(pipeline, row_id)
                is_well = is_well and reason is not None
                state = State.NONE if reason else None
                error = reason or UNKNOWN_ID
                found.append({"id": row_id, "kind": None, "state": state, "error": error})
        if not ids:
            # It imports more than the status of an ID needs.
            from lens_pipeline.cli.overview import look

            overview = look(pipeline)
    restarts = read_restarts(pipeline.settings.resolved_home)
    if as_json:
        result = {"status": found, "restarts": {k: one.count for k, one in restarts.items()}}
        print_json(result | (overview.to_json() if overview else {}))
    else:
        for entry in found:
            print(_line(entry))
        if overview:
            overview.show()
        if again := in_words(restarts):
            say(f"lens: started again since `lens up` began: {again}")
    failed = [entry for entry in found if entry["state"] in (State.FAILED, State.DEAD)]
    is_late = overview is not None and any(one.late.count for one in overview.unsaved.values())
    sys.exit(0 if is_well and not failed and not is_late else 1)


def _entry(status: DerivativeStatus) -> dict:
    progress = status.progress and status.progress.text
    retry_at = (status.due_remake or status).retry_at
    retry_at = retry_at and retry_at.isoformat(timespec="seconds")
    others = {"waits": status.waits, "progress": progress, "retry_at": retry_at}
    return _fields(status, _STATUS) | _fields(status.wanted, _ATTEMPT) | others


def _fields(status: DerivativeStatus, names: Sequence[str]) -> dict:
    return {name: getattr(status, name) for name in names}


def _line(entry: dict) -> str:
    if entry["state"] is None:
        return f"{entry['id']}: {entry['error']}"
    words = [entry["id"], entry.get("asset") or "", entry["state"]]
    if entry.get("outdated"):
        words.append("outdated")
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
    if entry.get("retry_at"):
        words.append(f"(tried again from {entry['retry_at']} on)")
    line = " ".join(word for word in words if word)
    return f"{line}\n  {explain(entry['error_class']).text}" if entry.get("error_class") else line


@click.command("dead-letters")
@click.option("--class", "error_class", metavar="NAME", help="Only of this class of error.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    metavar="DATE",
    help="Only from this day or time on, in UTC.",
)
@click.option("--outdated", is_flag=True, help="Instead what is ready, but could not be made anew.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def dead_letters(
    error_class: str | None, since: dt.datetime | None, outdated: bool, as_json: bool
) -> None:
    """List what was given up on, and why."""
    with session("dead-letters") as pipeline:
        found = (letters.outdated_letters if outdated else letters.oldest_dead_letters)(pipeline)
    if error_class is not None:
        found = [letter for letter in found if letter.error_class == error_class]
    if since is not None:
        from_then_on = since.replace(tzinfo=dt.UTC)
        # Rows that cannot be used have no time.
        found = [letter for letter in found if letter.at is None or letter.at >= from_then_on]
    if as_json:
        print_json({"dead_letters": [_letter(one) for one in found]})
        return
    if found:
        titles = ["since (UTC)", "kind", "id", "attempts", "reason"]
        print_table(titles, map(_row, found), right={titles.index("attempts")})
        print()
    for name in sorted({letter.error_class or "" for letter in found}):
        print(f"{name}: {explain(name).text}")
    count = f"{len(found)} outdated" if outdated else letters.counted(len(found))
    print(count + (": `lens retry ID` tries again" if found else ""))


def _letter(letter: DerivativeStatus) -> dict:
    at = letter.at.isoformat(timespec="seconds") if letter.at else None
    return _fields(letter, _LETTER) | {"at": at}


def _row(letter: DerivativeStatus) -> list[str]:
    return [
        f"{letter.at:%Y-%m-%d %H:%M}" if letter.at else "",
        *(letter.kind, letter.id, str(letter.attempts or "")),
        f"{letter.error_class}: {letter.error}",
    ]


@click.command()
@click.option("--all", "every", is_flag=True, help="Every file, not a sample of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(every: bool, as_json: bool) -> None:
    """Say which stored files are gone, or have other bytes than were stored.

    Originals are read whole, others are compared by size. Exit status: 1 if any is damaged.
    `lens backfill --lost` makes what is gone again.
    """
    looked_at, found = 0, []
    with session("verify") as pipeline, scratch_directory(pipeline.settings.scratch) as scratch:
        for derivative in store_audit.audited():
            for keys in _audited_keys(pipeline, derivative, every=every):
                looked_at += len(keys)
                damaged = store_audit.damaged(pipeline, derivative, keys, scratch)
                found += damaged
                for one in [] if as_json else damaged:
                    print(f"{one.asset} {one.id}: {one.path} {one.problem}", flush=True)
    if as_json:
        print_json({"looked_at": looked_at, "damaged": [asdict(one) for one in found]})
    else:
        print(f"{looked_at} files looked at, {len(found)} gone or damaged")
    sys.exit(1 if found else 0)


def _audited_keys(
    pipeline: Pipeline, derivative: Derivative, *, every: bool
) -> Iterator[list[str]]:
    if not every:
        yield pipeline.log.random_keys(derivative.asset, store_audit.SAMPLE)
        return
    last = ""
    while keys := pipeline.log.keys_after(derivative.asset, "", last, store_audit.SAMPLE):
        yield keys
        last = keys[-1]


_COLUMNS = {
    **{name: name for name in ("finished", "ready", "failed", "dead", "waiting")},
    "in_time_share": "≤ 60 s",
    "latency_p50_seconds": "p50",
    "latency_p95_seconds": "p95",
    "latency_p99_seconds": "p99",
    "fetch_p50_seconds": "fetch",
    "render_p50_seconds": "render",
    "store_p50_seconds": "store",
    "bytes_in": "MB in",
    "bytes_out": "MB out",
    "failures": "failed attempts",
}


@click.command()
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=7,
    show_default=True,
    help="How many days, today included; days are UTC.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(days: int, as_json: bool) -> None:
    """Show what became of the files of each day, and how long they took.

    The reports in the store are read, and the event log for today and for days without a report.
    """
    with session("report") as pipeline, closing(DayLog(pipeline.endpoints.dagster_url)) as log:
        found = [_day(pipeline, log, ago) for ago in reversed(range(days))]
    if as_json:
        print_json({"days": [_plain(source, day) for source, day in found]})
        return
    _print([day for _, day in found])


def _day(pipeline: Pipeline, log: DayLog, ago: int) -> tuple[str, DayReport]:
    """The report of a day from the store, or from the log if none was made yet."""
    day = collect.today() - dt.timedelta(days=ago)
    kept = archive.find(pipeline.store, day) if ago else None
    return ("store", kept) if kept else ("log", collect.report(pipeline, log, day))


def _plain(source: str, day: DayReport) -> dict:
    kinds = [row | {"failures": json.loads(row["failures"])} for row in day.summary]
    return {
        "day": day.day,
        "source": source,
        "as_of": day.summary[0]["as_of"].isoformat(timespec="seconds"),
        "kinds": [_without(row, "day", "as_of") for row in kinds],
        **{
            name: [_without(row, "day", "list") for row in day.extremes if row["list"] == name]
            for name in ("slowest", "largest")
        },
    }


def _without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def _print(days: list[DayReport]) -> None:
    found, quiet = [], 0
    for day in days:
        rows = [row for row in day.summary if row["finished"] or row["failed_attempts"]]
        quiet += not rows
        found += [[row["day"], row["kind"], *(_cell(n, row[n]) for n in _COLUMNS)] for row in rows]
    titles = ["day", "kind", *_COLUMNS.values()]
    if found:
        print_table(titles, found, right=range(2, titles.index("failed attempts")))
    if quiet:
        say(f"lens: {quiet} of {len(days)} days without any finished file")


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name == "failures":
        return ", ".join(f"{error} {n}" for error, n in json.loads(str(value)).items())
    if name == "in_time_share":
        return f"{float(str(value)):.2%}"
    if name.startswith("bytes"):
        return f"{int(str(value)) / 1e6:.1f}"
    return f"{value:.2f} s" if isinstance(value, float) else str(value)
