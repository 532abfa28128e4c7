"""The asset of daily reports, whose figures `monitoring/reports` computes."""

import datetime as dt
import math
from typing import TYPE_CHECKING

import dagster as dg

from lens_pipeline.defs import checks
from lens_pipeline.defs.labels import OWNERS
from lens_pipeline.defs.partitions import partition_set
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.dead_letters import oldest_dead_letters
from lens_pipeline.derivatives.registry import MASTERS, REPORT_ASSET, REPORT_DAYS, assets
from lens_pipeline.engine.events import StepFailure

if TYPE_CHECKING:
    import pandas as pd

    from lens_pipeline.monitoring.reports.collect import DayReport


@dg.asset(
    name=REPORT_ASSET,
    partitions_def=partition_set(REPORT_DAYS),
    # Of none in particular: a day is no partition of theirs.
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
    # Imported here, or every worker process would hold pandas and matplotlib.
    from lens_pipeline.monitoring.reports import archive, chart, collect

    pipeline = lens.pipeline()
    day = _day(context.partition_key)
    files = collect.read_files(pipeline, day)
    report = collect.report(pipeline, day, files)
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


def _figures(report: "DayReport") -> dict[str, dg.MetadataValue | int | float]:
    summary = report.summary
    found: dict[str, dg.MetadataValue | int | float] = {
        name: sum(summary[name].tolist()) for name in ("finished", "ready", "failed", "dead")
    }
    for row in summary.loc[summary["finished"] > 0].to_dict("records"):
        for name in ("in_time_share", "latency_p50_seconds", "latency_p95_seconds"):
            value = float(row[name])
            if not math.isnan(value):
                found[f"{row['kind']}_{name}"] = round(value, 4)
    found["by_kind"] = _table(summary.drop(columns=["day", "as_of"]))
    for name, listed in report.extremes.groupby("list", sort=False):
        found[str(name)] = _table(listed.drop(columns=["day", "list"]))
    return found


def _table(rows: "pd.DataFrame") -> dg.TableMetadataValue:
    """An unknown number is empty."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord({str(name): _text(value) for name, value in row.items()})
            for row in rows.astype(object).where(rows.notna(), None).to_dict("records")
        ],
        schema=dg.TableSchema([dg.TableColumn(str(name)) for name in rows.columns]),
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="seconds")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
