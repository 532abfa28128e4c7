"""What was made and what failed in a span of time, for the daily report.

The log has no index by time, but ids grow with it: a binary search finds where a span begins.
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from lens_pipeline.core import postgres
from lens_pipeline.event_log.counters import STAGES, Missed, missed_of
from lens_pipeline.event_log.reader import event_metadata, number, text, whole
from lens_pipeline.event_log.tags import CREDITS_TAG

_MADE, _OBSERVED = "ASSET_MATERIALIZATION", "ASSET_OBSERVATION"
# The clock of a worker, which sets the times, may be this far off.
_SLACK = dt.timedelta(hours=1)
_PAGE = 2000


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A derivative made by a run; durations in seconds, None where not known."""

    event_id: int
    key: str
    revision: str | None
    at: dt.datetime
    latency: float | None
    """From the end of the row to the stored derivative."""
    stages: tuple[float | None, ...]
    """One for each of STAGES."""
    bytes_in: int | None
    bytes_out: int | None

    @property
    def finished_at(self) -> dt.datetime | None:
        """As of that run: rows change their times later."""
        return None if self.latency is None else self.at - dt.timedelta(seconds=self.latency)


class DayLog:
    """Safe to share between threads."""

    def __init__(self, dagster_url: str) -> None:
        self._engine = postgres.connect("lens-pipeline-days", dagster_url)

    def close(self) -> None:
        self._engine.dispose()

    def made(self, asset: str, since: dt.datetime, until: dt.datetime) -> Iterator[MadeFile]:
        """What runs made from `since` to before `until`, in the order of the log."""
        for page in self._pages(asset, _MADE, since, until):
            yield from self.files(page)

    def files(self, event_ids: Iterable[int]) -> list[MadeFile]:
        """Without adopted files, which have no run."""
        with self._engine.connect() as connection:
            rows = connection.execute(_FILES, {"ids": list(event_ids)}).all()
        return [_file(row) for row in rows]

    def missed(self, asset: str, since: dt.datetime, until: dt.datetime) -> Iterator[Missed]:
        """Failed attempts from `since` to before `until`."""
        for page in self._pages(asset, _OBSERVED, since, until):
            with self._engine.connect() as connection:
                yield from missed_of(connection, page)

    def credits(self, asset: str, since: dt.datetime, until: dt.datetime) -> float | None:
        """What tasks cost whose end was recorded in the span; None: no provider says so."""
        found: list[float] = []
        for page in self._pages(asset, _OBSERVED, since, until):
            with self._engine.connect() as connection:
                values = {"ids": page, "tag": CREDITS_TAG}
                found += map(float, connection.scalars(_VALUES, values))
        return sum(found) if found else None

    def _pages(
        self, asset: str, kind: str, since: dt.datetime, until: dt.datetime
    ) -> Iterator[list[int]]:
        """Event ids."""
        values = {"asset": json.dumps([asset]), "type": kind}
        with self._engine.connect() as connection:
            after = _place(connection, values, since - _SLACK) - 1
            last = _place(connection, values, until + _SLACK)
        span = {"since": _naive(since), "until": _naive(until), "last": last, "limit": _PAGE}
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(_SPAN, {**values, **span, "after": after}).all()
            if not rows:
                return
            after = rows[-1].id
            yield [row.id for row in rows if row.is_within]


def _place(connection: sa.Connection, values: dict[str, str], moment: dt.datetime) -> int:
    """The lowest id of such an event at or after `moment`."""
    low, high = 0, (connection.scalar(_LAST, values) or 0) + 1
    naive = _naive(moment)
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(_PROBE, {**values, "id": middle}).one_or_none()
        if row is not None and row.at < naive:
            low = row.id + 1
        else:
            high = middle
    return low


def _naive(moment: dt.datetime) -> dt.datetime:
    """UTC without a zone, as in the log."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None)


def _file(row: sa.Row) -> MadeFile:
    facts = event_metadata(row)
    return MadeFile(
        event_id=row.id,
        key=row.partition,
        revision=text(facts.get("revision")),
        at=row.timestamp.replace(tzinfo=dt.UTC),
        latency=number(facts.get("latency_seconds")),
        stages=tuple(number(facts.get(f"{stage}_seconds")) for stage in STAGES),
        bytes_in=whole(facts.get("source_bytes")),
        bytes_out=whole(facts.get("bytes")),
    )


_VALUES = sa.text("SELECT value FROM asset_event_tags WHERE event_id = ANY(:ids) AND key = :tag")
# Rows are compared: see `changes.py`.
_SPAN = sa.text("""
    SELECT id, "timestamp" >= :since AND "timestamp" < :until AS is_within FROM event_logs
     WHERE asset_key IS NOT NULL
       AND (asset_key, dagster_event_type, id) > (:asset, :type, :after)
       AND (asset_key, dagster_event_type, id) <= (:asset, :type, :last)
     ORDER BY asset_key, dagster_event_type, id LIMIT :limit
    """)
_PROBE = sa.text("""
    SELECT id, "timestamp" AS at FROM event_logs
     WHERE asset_key IS NOT NULL
       AND (asset_key, dagster_event_type, id) >= (:asset, :type, :id)
       AND (asset_key, dagster_event_type, id) <= (:asset, :type, 9223372036854775807)
     ORDER BY asset_key, dagster_event_type, id LIMIT 1
    """)
_LAST = sa.text("""
    SELECT id FROM event_logs
     WHERE asset_key IS NOT NULL
       AND (asset_key, dagster_event_type, id) >= (:asset, :type, 0)
       AND (asset_key, dagster_event_type, id) <= (:asset, :type, 9223372036854775807)
     ORDER BY asset_key DESC, dagster_event_type DESC, id DESC LIMIT 1
    """)
_FILES = sa.text("""
    SELECT id, partition, "timestamp", event FROM event_logs
     WHERE id = ANY(:ids) AND run_id <> '' AND partition IS NOT NULL ORDER BY id
    """)
