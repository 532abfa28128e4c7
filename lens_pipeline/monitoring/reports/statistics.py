"""Computes a report from frames, without Dagster or a database.

A file belongs to the UTC day in which its row finished, a failed attempt to the day of its failure.
"""

import datetime as dt
import json

import pandas as pd

from lens_pipeline.event_log.counters import STAGES

# The service level: from the end of a row's generation to its derivative stored.
IN_TIME_SECONDS = 60.0
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
EXTREMES = 10  # of each list of files
# One row a file, made or not; times are UTC.
FILES = {
    "kind": "string",
    "id": "string",
    "state": "string",
    "finished_at": "datetime64[us, UTC]",
    "latency_seconds": "float64",
    **{f"{stage}_seconds": "float64" for stage in STAGES},
    "bytes_in": "Int64",
    "bytes_out": "Int64",
}
# One row a failed attempt.
ATTEMPTS = {"kind": "string", "error_class": "string", "permanent": "boolean"}


def frame(rows: list[dict], columns: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def summarize(
    day: dt.date, kinds: list[str], files: pd.DataFrame, attempts: pd.DataFrame, as_of: dt.datetime
) -> pd.DataFrame:
    """One row a kind, from frames of FILES and ATTEMPTS."""
    rows = [
        {"day": day.isoformat(), "as_of": as_of, "kind": kind}
        | _counts(files.loc[files["kind"] == kind], as_of)
        | _failures(attempts.loc[attempts["kind"] == kind])
        for kind in kinds
    ]
    return pd.DataFrame(rows).astype(
        {"day": "string", "as_of": "datetime64[us, UTC]", "kind": "string", "failures": "string"}
    )


def _counts(files: pd.DataFrame, as_of: dt.datetime) -> dict[str, object]:
    ready = files.loc[files["state"] == "ready"]
    in_time = len(ready.loc[ready["latency_seconds"] <= IN_TIME_SECONDS])
    # Files that may still be in time are left out of the share.
    age = (pd.Timestamp(as_of) - files["finished_at"]).dt.total_seconds()
    is_open = files["state"].isin(["failed", "waiting"])
    judged = len(files) - len(files.loc[is_open & (age < IN_TIME_SECONDS)])
    counts: dict[str, object] = {"finished": len(files)}
    for state in ("ready", "failed", "dead", "waiting"):
        counts[state] = len(files.loc[files["state"] == state])
    share_in_time = in_time / judged if judged else float("nan")
    counts |= {"judged": judged, "in_time": in_time, "in_time_share": share_in_time}
    for what in ("latency", *STAGES):
        for name, share in QUANTILES.items():
            value = ready[f"{what}_seconds"].quantile(share)  # NaN of no file
            counts[f"{what}_{name}_seconds"] = round(float(value), 4)
    for name in ("bytes_in", "bytes_out"):
        counts[name] = sum(ready[name].dropna().tolist())
    return counts


def _failures(attempts: pd.DataFrame) -> dict[str, object]:
    by_class = attempts["error_class"].value_counts().sort_index()
    counted = {str(name): int(number) for name, number in by_class.items()}
    return {"failed_attempts": len(attempts), "failures": json.dumps(counted)}


def extremes(day: dt.date, files: pd.DataFrame) -> pd.DataFrame:
    """The slowest and the largest files, by `list`, worst first."""
    ready = files.loc[files["state"] == "ready"]
    # A stable sort keeps equal ones in order.
    slowest = ready.sort_values("latency_seconds", ascending=False, kind="stable").head(EXTREMES)
    largest = ready.sort_values("bytes_in", ascending=False, kind="stable").head(EXTREMES)
    listed = pd.concat(
        [slowest.assign(list="slowest"), largest.assign(list="largest")], ignore_index=True
    ).assign(day=day.isoformat())
    columns = ["day", "list", *(column for column in FILES if column != "state")]
    return listed.loc[:, columns].astype({"day": "string", "list": "string"})


def hours(files: pd.DataFrame) -> pd.DataFrame:
    """One row an hour (0-23, UTC); latencies are in seconds."""
    rows = []
    hour = files["finished_at"].dt.hour
    for number in range(24):
        within = files.loc[hour == number]
        latency = within.loc[within["state"] == "ready", "latency_seconds"]
        in_time = len(latency.loc[latency <= IN_TIME_SECONDS])
        rows.append(
            {
                "in_time": in_time,
                "late": len(latency) - in_time,
                "not_made": len(within) - len(latency),
                "p50": float(latency.quantile(0.5)),
                "p95": float(latency.quantile(0.95)),
            }
        )
    return pd.DataFrame(rows)
