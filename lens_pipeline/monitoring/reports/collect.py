"""Collects a day's files from the application's rows and the event log."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lens_pipeline.catalog.rows import Kind, Position, Row
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.counters import STAGES
from lens_pipeline.event_log.daily import DayLog, MadeFile
from lens_pipeline.event_log.history import State
from lens_pipeline.monitoring.reports import statistics
from lens_pipeline.monitoring.reports.statistics import Record

# Files made this soon after their day are read with it.
_AFTERMATH = dt.timedelta(hours=1)
# A master finishes with its last shot, perhaps days after its row was changed.
_ROWS_BEFORE = {Kind.MASTER: dt.timedelta(days=7), Kind.SCALED: dt.timedelta(days=7)}
_PAGE = 2000


@dataclass(frozen=True, slots=True)
class DayReport:
    """Rows of `statistics.FIGURES` and `statistics.LISTED`."""

    day: dt.date
    summary: list[Record]
    extremes: list[Record]


def today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def report(
    pipeline: Pipeline, log: DayLog, day: dt.date, files: list[Record] | None = None
) -> DayReport:
    """The report of `day` as of now; `files` are those of `read_files`."""
    as_of = dt.datetime.now(dt.UTC)
    files = read_files(pipeline, log, day) if files is None else files
    kinds = [kind.value for kind in registry.kinds(registry.of_site(pipeline))]
    attempts, costs = _attempts(log, day), _credits(log, day)
    summary = statistics.summarize(day, kinds, files, attempts, costs, as_of)
    return DayReport(day, summary, statistics.extremes(day, files))


def read_files(pipeline: Pipeline, log: DayLog, day: dt.date) -> list[Record]:
    """Every file of `day`, as rows of `statistics.FILES`."""
    since, until = _bounds(day)
    rows: list[Record] = []
    for derivative in map(registry.primary, registry.kinds(registry.of_site(pipeline))):
        kind = derivative.kind.value
        made = _first_made(log, derivative.asset, since, until)
        rows += [_made_row(kind, file) for file in made.values()]
        rows += _others(pipeline, log, derivative, day, made)
    return rows


def _attempts(log: DayLog, day: dt.date) -> list[Record]:
    since, until = _bounds(day)
    return [
        {"kind": d.kind.value, "error_class": m.error_class}
        for d in registry.DERIVATIVES
        for m in log.missed(d.asset, since, until)
    ]


def _credits(log: DayLog, day: dt.date) -> dict[str, float | None]:
    since, until = _bounds(day)
    return {
        kind.value: log.credits(original.asset, since, until)
        for kind, original in registry.ORIGINALS.items()
    }


def _bounds(day: dt.date) -> tuple[dt.datetime, dt.datetime]:
    since = dt.datetime.combine(day, dt.time(), dt.UTC)
    return since, since + dt.timedelta(days=1)


def _first_made(
    log: DayLog, asset: str, since: dt.datetime, until: dt.datetime
) -> dict[tuple[str, str | None], MadeFile]:
    """The first making of each file, by key and revision; later ones were forced."""
    first: dict[tuple[str, str | None], MadeFile] = {}
    for file in log.made(asset, since, until + _AFTERMATH):
        if file.finished_at is not None and since <= file.finished_at < until:
            first.setdefault((file.key, file.revision), file)
    return first


def _others(
    pipeline: Pipeline,
    log: DayLog,
    derivative: Derivative,
    day: dt.date,
    made: Mapping[tuple[str, str | None], MadeFile],
) -> Iterator[Record]:
    """The day's other rows: made later, or not at all."""
    since, until = _bounds(day)
    kind = derivative.kind.value
    for page in _rows(pipeline, derivative.kind, since, until):
        unknown = [
            row for row in page if (row.id, derivative.revision(row, pipeline.settings)) not in made
        ]
        later: list[int] = []
        for status in assess(pipeline, derivative, unknown):
            if status.state is State.READY:
                is_known = (status.id, status.revision) in made
                later += [status.event_id] if status.event_id and not is_known else []
                continue
            has_failed = status.state in (State.FAILED, State.DEAD)
            if has_failed or status.waits_for is None:
                state = status.state.value if has_failed else "waiting"
                finished = status.finished_at
                yield {"kind": kind, "id": status.id, "state": state, "finished_at": finished}
        for file in log.files(later):
            if file.finished_at is not None and since <= file.finished_at < until:
                yield _made_row(kind, file)


def _rows(
    pipeline: Pipeline, kind: Kind, since: dt.datetime, until: dt.datetime
) -> Iterator[list[Row]]:
    """Pages of rows that finished in the span."""
    place = Position(since - _ROWS_BEFORE.get(kind, dt.timedelta()), "")
    while True:
        page = pipeline.catalog.after(kind, place, _PAGE)
        within = [row for position, row in page if position and position.finished_at < until]
        yield [
            row for row in usable(within) if row.finished_at and since <= row.finished_at < until
        ]
        last = page[-1][0] if page else None
        if len(within) < _PAGE or last is None:
            return
        place = last


def _made_row(kind: str, file: MadeFile) -> Record:
    return {
        "kind": kind,
        "id": file.key,
        "state": "ready",
        "finished_at": file.finished_at,
        "latency_seconds": file.latency,
        **{f"{name}_seconds": value for name, value in zip(STAGES, file.stages, strict=True)},
        "bytes_in": file.bytes_in,
        "bytes_out": file.bytes_out,
    }
