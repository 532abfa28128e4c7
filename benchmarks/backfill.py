"""What a look of the backfill at a million photos costs, all of which have their preview.

The tables are filled with rows, events and tags of the shape and size that real ones have. `truth`
is a look that assesses every row: the first one and one a day. Besides, the time that the sensor of
removed rows takes to look at every partition.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence

import psycopg2
import sqlalchemy as sa

from lens_pipeline import settings
from lens_pipeline.catalog.rows import Generation, Kind
from lens_pipeline.derivatives.backfill import BackfillScanner
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.derivatives.registry import DERIVATIVES, PREVIEW
from lens_pipeline.engine.dagster_storage.storage import create_tables
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.event_log.tags import SOURCE_TAG
from lens_pipeline.monitoring.view_sync import update_view
from lens_pipeline.supervisor.services import running

_ROWS, _QUICK_ROWS = 1_000_000, 20_000
_ROUNDS, _IDLE_ROUNDS = 3, 21
_AT_ONCE = 10_000
# Of one tick.
_LIMIT = 500
_PLANNED, _MADE = "ASSET_MATERIALIZATION_PLANNED", "ASSET_MATERIALIZATION"
# Characters of an event, as Dagster serializes it.
_SIZES = {_PLANNED: 900, _MADE: 1900}


def run(quick: bool = False) -> dict[str, float]:
    """Seconds of looks at all rows, milliseconds of one when nothing has changed."""
    rows = _QUICK_ROWS if quick else _ROWS
    with tempfile.TemporaryDirectory(prefix="lens-bench-") as home:
        loaded, _ = settings.load({"LENS_HOME": home}, dotenv=None)
        with running(loaded, broker=False, command="bench") as endpoints:
            pipeline = connect(loaded, endpoints)
            pipeline.catalog.migrate()
            pipeline.catalog.migrate_view()
            create_tables(endpoints.dagster_url)
            _fill(pipeline, rows)
            _vacuum(pipeline)
            update_view(pipeline, [], alone=True)
            _vacuum(pipeline)
            found = _measure(pipeline)
            pipeline.catalog.close()
            pipeline.log.close()
    return found


def _measure(pipeline: Pipeline) -> dict[str, float]:
    scanners = [BackfillScanner(pipeline, derivative) for derivative in DERIVATIVES]

    def look() -> None:
        for scanner in scanners:
            scanner.look(_LIMIT)

    def look_at_all() -> None:
        for scanner in scanners:
            scanner.make_due()
        look()

    truth = _seconds(look)
    whole = [_seconds(look_at_all) for _ in range(_ROUNDS)]
    idle = [_seconds(look) for _ in range(_IDLE_ROUNDS)]
    return {
        "backfill_million_seconds": statistics.median(whole),
        "backfill_million_truth_seconds": truth,
        "backfill_idle_ms": 1000 * statistics.median(idle),
        "removal_million_seconds": _seconds(lambda: _look_for_removed(pipeline)),
    }


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _look_for_removed(pipeline: Pipeline) -> None:
    keys = [""]
    while keys := pipeline.log.keys_after(PREVIEW.asset, PREVIEW.partition_set, keys[-1], 500):
        pipeline.catalog.existing(PREVIEW.kind, keys)


def _fill(pipeline: Pipeline, count: int) -> None:
    application = psycopg2.connect(pipeline.endpoints.database_url)
    dagster = psycopg2.connect(pipeline.endpoints.dagster_url)
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        rows = [_row(number) for number in numbers]
        _copy(
            application,
            "generations (id, user_id, type, status, asset_url, created_at, updated_at)",
            ((r.id, r.user_id, "photo", "success", r.asset_url, *["2026-01-01"] * 2) for r in rows),
        )
        _copy(
            dagster,
            "event_logs (id, run_id, event, dagster_event_type, timestamp, asset_key, partition)",
            (
                (2 * number + place + 1, f"run-{number // 20}", "x" * size, kind, "2026-01-01",
                 '["preview"]', row.id)
                for number, row in zip(numbers, rows, strict=True)
                for place, (kind, size) in enumerate(_SIZES.items())
            ),
        )  # fmt: skip
        _copy(
            dagster,
            "asset_event_tags (event_id, asset_key, key, value, event_timestamp)",
            (
                (2 * number + 2, '["preview"]', *tag, "2026-01-01")
                for number, row in zip(numbers, rows, strict=True)
                for tag in _tags(pipeline, row).items()
            ),
        )
        keys = (("photos", row.id) for row in rows)
        _copy(dagster, "dynamic_partitions (partitions_def_name, partition)", keys)
    application.close()
    dagster.close()


def _row(number: int) -> Generation:
    key = f"past-{number:07d}"
    url = f"https://cdn.example.org/generations/2026/01/{key}/original.jpg"
    return Generation(key, f"user-{number % 97}", Kind.PHOTO, url, None)


def _tags(pipeline: Pipeline, row: Generation) -> dict[str, str]:
    revision = PREVIEW.revision(row, pipeline.settings)
    status = DerivativeStatus(PREVIEW.asset, row.id, revision=revision)
    tags = PREVIEW.materialization_tags(row, status, pipeline.settings)
    del tags[SOURCE_TAG]  # it has no index
    return tags


def _copy(
    connection: psycopg2.extensions.connection, columns: str, rows: Iterable[Sequence[object]]
) -> None:
    lines = io.StringIO("".join("\t".join(map(str, row)) + "\n" for row in rows))
    with connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {columns} FROM STDIN", lines)


def _vacuum(pipeline: Pipeline) -> None:
    for url in (pipeline.endpoints.database_url, pipeline.endpoints.dagster_url):
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
        engine.dispose()
