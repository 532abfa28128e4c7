"""Reports in the object store, as CSV and Parquet."""

import csv
import datetime as dt
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lens_pipeline.errors import SourceMissing
from lens_pipeline.monitoring.reports.collect import DayReport
from lens_pipeline.monitoring.reports.statistics import FIGURES, LISTED, Record
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import ObjectStore

PREFIX = "reports/daily/"
_MAX_BYTES = 16 * 1024 * 1024
_PARSERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "int64": int,
    "Int64": int,
    "float64": float,
    "datetime64[us, UTC]": dt.datetime.fromisoformat,
}


def keys(day: dt.date) -> dict[str, str]:
    return {
        "figures_csv": f"{PREFIX}{day}.csv",
        "figures_parquet": f"{PREFIX}{day}.parquet",
        "files_csv": f"{PREFIX}{day}_files.csv",
        "files_parquet": f"{PREFIX}{day}_files.parquet",
    }


def keep(store: ObjectStore, report: DayReport) -> None:
    """Store the report. Raises DerivativeError."""
    # A worker's child, and `lens report`, would take half a second longer to start.
    import pandas as pd

    names = keys(report.day)
    # Figures come last: `find` reads them first.
    for name, rows, columns in (
        ("files", report.extremes, LISTED),
        ("figures", report.summary, FIGURES),
    ):
        table = pd.DataFrame(rows, columns=list(columns)).astype(columns)
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        text = table.to_csv(index=False).encode()
        bodies = {f"{name}_csv": text, f"{name}_parquet": buffer.getvalue()}
        for kind, body in bodies.items():
            store.write(names[kind], body, content_type=content_type_of(names[kind]))


def find(store: ObjectStore, day: dt.date) -> DayReport | None:
    """The stored report, or None. Raises DerivativeError."""
    names = keys(day)
    try:
        figures = _read(store, names["figures_csv"], FIGURES)
        return DayReport(day, figures, _read(store, names["files_csv"], LISTED))
    except SourceMissing:
        return None


def _read(store: ObjectStore, key: str, columns: Mapping[str, str]) -> list[Record]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.csv"
        store.read_into(key, file, max_bytes=_MAX_BYTES)
        with file.open(encoding="utf-8", newline="") as lines:
            return [
                {
                    name: _PARSERS[columns[name]](text) if text else None
                    for name, text in row.items()
                }
                for row in csv.DictReader(lines)
            ]
