"""The asset of daily reports, whose figures `monitoring/reports` computes."""

import datetime as dt
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import Any

import dagster as dg

from lens_pipeline.defs import checks
from lens_pipeline.defs.labels import OWNERS
from lens_pipeline.defs.partitions import partition_set
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.dead_letters import oldest_dead_letters
from lens_pipeline.derivatives.registry import MASTERS, REPORT_ASSET, REPORT_DAYS, assets
from lens_pipeline.engine.events import StepFailure
from lens_pipeline.event_log.daily import DayLog
from lens_pipeline.monitoring.reports import archive, collect
from lens_pipeline.monitoring.reports.collect import DayReport


@dg.asset(
    name=REPORT_ASSET,
    partitions_def=partition_set(REPORT_DAYS),
    # A day is no partition of these assets.
    deps=[
        dg.AssetDep(asset, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))
        for asset in assets()
    ],
    check_specs=checks.SPECS,
    code_version="1",
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    group_name="reports",
    kinds={"pandas", "parquet"},
    owners=OWNERS,
    tags={"lens/queue": MASTERS},
)
def daily_report(context: dg.AssetExecutionContext, lens: LensResource) -> dg.MaterializeResult:
    """How many files of the day were made, how fast, and what failed; by kind."""
    # Imported here, or every worker process would hold matplotlib.
    from lens_pipeline.monitoring.reports import chart

    pipeline = lens.pipeline()
    day = _day(context.partition_key)
    with closing(DayLog(pipeline.endpoints.dagster_url)) as log:
        files = collect.read_files(pipeline, log, day)
        report = collect.report(pipeline, log, day, files)
    archive.keep(pipeline.store, report)
    return dg.MaterializeResult(
        metadata={
            "chart": dg.MetadataValue.md(chart.inline(chart.draw(day, files), f"{day}")),
            **_figures(report),
            "dagster/uri": pipeline.store.uri(archive.keys(day)["figures_parquet"]),
            **archive.keys(day),
        },
        check_results=[
            checks.service_levels(report.summary),
            checks.dead_letters_attended(oldest_dead_letters(pipeline), dt.datetime.now(dt.UTC)),
        ],
    )


def _day(key: str) -> dt.date:
    """People add days in Dagster's UI."""
    try:
        return dt.date.fromisoformat(key)
    except ValueError as error:
        raise StepFailure(f"{key!r} is no day, such as 2026-03-31") from error


def _figures(report: DayReport) -> dict[str, dg.MetadataValue | int | float]:
    summary = report.summary
    found: dict[str, dg.MetadataValue | int | float] = {
        name: sum(row[name] for row in summary) for name in ("finished", "ready", "failed", "dead")
    }
    for row in summary:
        for name in ("in_time_share", "latency_p50_seconds", "latency_p95_seconds"):
            if row[name] is not None:
                found[f"{row['kind']}_{name}"] = round(row[name], 4)
    found["by_kind"] = _table(summary)
    for name, listed in groupby(report.extremes, itemgetter("list")):
        found[name] = _table(list(listed))
    return found


def _table(rows: Sequence[dict[str, Any]]) -> dg.TableMetadataValue:
    """An unknown number is empty; what all rows share is left out."""
    names = [name for name in rows[0] if name not in ("day", "as_of", "list")]
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _text(row[name]) for name in names}) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name) for name in names]),
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="seconds")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
