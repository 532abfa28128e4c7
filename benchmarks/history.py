"""Fills a stack with the past of a library: rows, previews, runs and their events, within seconds.

Every row of Dagster's tables is a copy of one that a real run has left, with its ids, revision and
time replaced; so the event log has the shape, size and indexes of one that grew by itself.
"""

import io
from collections.abc import Iterator, Sequence

import psycopg2.extensions
import sqlalchemy as sa

from benchmarks.running_stack import USER, RunningStack
from lens_pipeline.catalog.rows import Generation, Kind
from lens_pipeline.derivatives.registry import PREVIEW

_PREFIX = "past-"
# The past is spread over so many days, none of it younger than the first.
_YOUNGEST_DAYS, _OLDEST_DAYS = 1, 80


def fill(stack: RunningStack, source: str, partitions: int) -> None:
    """Add `partitions` photos whose previews were made in the past, a full batch a run."""
    batch = stack.settings.batch_size
    template = [f"template-{index:03d}" for index in range(batch)]
    stack.add_rows(dict.fromkeys(template, source))
    stack.await_previews(template)
    stack.await_no_runs()
    transactional = stack.dagster.execution_options(isolation_level="READ COMMITTED")
    with transactional.begin() as connection:
        _copy_keys(connection, _keys(stack, source, template, partitions))
        for statement in _COPY_RUNS:
            connection.execute(statement, {"template": template[0], "oldest": _OLDEST_DAYS,
                                           "youngest": _YOUNGEST_DAYS})  # fmt: skip
        # Committed before the events that tell of them, as everywhere: who follows the log looks
        # for the rows.
        with stack.application.begin() as application:
            application.execute(
                _ADD_ROWS,
                {"count": partitions, "prefix": _PREFIX, "user": USER, "source": source,
                 "oldest": _OLDEST_DAYS, "youngest": _YOUNGEST_DAYS},
            )  # fmt: skip
    for engine in (stack.dagster, stack.application):
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


def _keys(
    stack: RunningStack, source: str, template: Sequence[str], partitions: int
) -> Iterator[str]:
    """A line for each partition: number, run, key, revision, the template's key and revision."""
    before = [_revision(stack, key, source) for key in template]
    for number in range(partitions):
        run, place = divmod(number, len(template))
        key = f"{_PREFIX}{number:06d}"
        revision = _revision(stack, key, source)
        yield f"{number}\t{run}\t{key}\t{revision}\t{template[place]}\t{before[place]}\n"


def _revision(stack: RunningStack, key: str, source: str) -> str:
    row = Generation(key, USER, Kind.PHOTO, source, None)
    return PREVIEW.revision(row, stack.settings)


def _copy_keys(connection: sa.Connection, lines: Iterator[str]) -> None:
    connection.execute(
        sa.text(
            "CREATE TEMPORARY TABLE past (number int, run int, key text, revision text,"
            " template text, template_revision text) ON COMMIT DROP"
        )
    )
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg2.extensions.connection)
    with raw.cursor() as cursor:
        cursor.copy_expert("COPY past FROM STDIN", io.StringIO("".join(lines)))


# Statements of one transaction; `source_run` is the template's run, `copies` the runs to make.
_COPY_RUNS = [
    sa.text("SET LOCAL synchronous_commit = off"),
    sa.text("ANALYZE past"),
    sa.text(
        """
        CREATE TEMPORARY TABLE source_run ON COMMIT DROP AS
        SELECT run_id, partition AS any_key FROM event_logs
         WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND partition = :template
        """
    ),
    sa.text(
        """
        CREATE TEMPORARY TABLE copies ON COMMIT DROP AS
        SELECT run, gen_random_uuid()::text AS run_id, s.run_id AS source_id,
               min(p.key) AS first, max(p.key) AS last,
               min(p.template) AS source_first, max(p.template) AS source_last,
               make_interval(secs => 86400.0 * (:youngest + (:oldest - :youngest)
                 * (1 - run::float / (SELECT count(DISTINCT run) FROM past)))) AS age
          FROM past p CROSS JOIN source_run s GROUP BY run, s.run_id
        """
    ),
    sa.text("ANALYZE copies"),
    sa.text(
        """
        INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, partition,
                          partition_set, create_timestamp, update_timestamp, start_time, end_time,
                          backfill_id)
        SELECT c.run_id, snapshot_id, pipeline_name, mode, status,
               replace(replace(replace(run_body, source_id, c.run_id), source_first, first),
                       source_last, last),
               partition, partition_set, create_timestamp - age, update_timestamp - age,
               start_time - extract(epoch FROM age), end_time - extract(epoch FROM age), backfill_id
          FROM copies c JOIN runs r ON r.run_id = c.source_id ORDER BY c.run
        """
    ),
    sa.text(
        """
        INSERT INTO run_tags (run_id, key, value)
        SELECT c.run_id, t.key,
               CASE WHEN t.key = 'dagster/run_key' THEN t.value || c.run
                    ELSE replace(replace(t.value, source_first, first), source_last, last) END
          FROM copies c JOIN run_tags t ON t.run_id = c.source_id ORDER BY c.run, t.id
        """
    ),
    sa.text(
        """
        INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key,
                                partition)
        SELECT c.run_id,
               CASE WHEN p.key IS NULL
                    THEN replace(replace(replace(
                      e.event, source_id, c.run_id), source_first, first), source_last, last)
                    ELSE replace(replace(replace(
                      e.event, source_id, c.run_id), p.template, p.key),
                      p.template_revision, p.revision) END,
               e.dagster_event_type, e.timestamp - age, e.step_key, e.asset_key, p.key
          FROM copies c JOIN event_logs e ON e.run_id = c.source_id
          LEFT JOIN past p ON p.run = c.run AND p.template = e.partition
         WHERE e.partition IS NULL OR p.key IS NOT NULL ORDER BY c.run, e.id
        """
    ),
    sa.text(
        """
        INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
        SELECT e.id, e.asset_key, t.key, replace(t.value, p.template_revision, p.revision),
               e.timestamp
          FROM event_logs e JOIN past p ON p.key = e.partition
          JOIN event_logs s ON s.partition = p.template
               AND s.dagster_event_type = e.dagster_event_type AND s.asset_key = e.asset_key
          JOIN asset_event_tags t ON t.event_id = s.id
         WHERE e.dagster_event_type = 'ASSET_MATERIALIZATION' ORDER BY e.id, t.id
        """
    ),
    sa.text(
        """
        INSERT INTO asset_check_executions
              (asset_key, check_name, run_id, execution_status, evaluation_event,
               evaluation_event_timestamp, evaluation_event_storage_id,
               materialization_event_storage_id, create_timestamp)
        SELECT asset_key, check_name, c.run_id, execution_status,
               replace(evaluation_event, source_id, c.run_id), evaluation_event_timestamp - age,
               evaluation_event_storage_id, materialization_event_storage_id, create_timestamp - age
          FROM copies c JOIN asset_check_executions e ON e.run_id = c.source_id ORDER BY c.run
        """
    ),
    sa.text(
        """
        INSERT INTO dynamic_partitions (partitions_def_name, partition)
        SELECT 'photos', key FROM past ORDER BY number
        """
    ),
]
_ADD_ROWS = sa.text(
    """
    INSERT INTO generations (id, user_id, type, status, asset_url, created_at, updated_at)
    SELECT :prefix || lpad(number::text, 6, '0'), :user, 'photo', 'success', :source, at, at
      FROM generate_series(0, :count - 1) AS number
     CROSS JOIN LATERAL (SELECT now() - make_interval(secs => 86400.0
       * (:youngest + (:oldest - :youngest) * (1 - number::float / :count))) AS at) past
    """
)
