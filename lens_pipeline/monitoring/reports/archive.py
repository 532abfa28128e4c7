"""Reports in the object store, as CSV and Parquet."""

import datetime as dt
import io
import tempfile
from pathlib import Path

import pandas as pd

from lens_pipeline.errors import SourceMissing
from lens_pipeline.monitoring.reports.collect import DayReport
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import ObjectStore

PREFIX = "reports/daily/"
_MAX_BYTES = 16 * 1024 * 1024


def keys(day: dt.date) -> dict[str, str]:
    return {
        "figures_csv": f"{PREFIX}{day}.csv",
        "figures_parquet": f"{PREFIX}{day}.parquet",
        "files_csv": f"{PREFIX}{day}_files.csv",
        "files_parquet": f"{PREFIX}{day}_files.parquet",
    }


def keep(store: ObjectStore, report: DayReport) -> None:
    """Store the report. Raises DerivativeError."""
    names = keys(report.day)
    # Figures come last: `find` reads them first.
    for name, table in (("files", report.extremes), ("figures", report.summary)):
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        csv = table.to_csv(index=False).encode()
        bodies = {f"{name}_csv": csv, f"{name}_parquet": buffer.getvalue()}
        for kind, body in bodies.items():
            store.write(names[kind], body, content_type=content_type_of(names[kind]))


def find(store: ObjectStore, day: dt.date) -> DayReport | None:
    """The stored report, or None. Raises DerivativeError."""
    names = keys(day)
    try:
        figures = _read(store, names["figures_parquet"])
        return DayReport(day, figures, _read(store, names["files_parquet"]))
    except SourceMissing:
        return None


def _read(store: ObjectStore, key: str) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.parquet"
        store.read_into(key, file, max_bytes=_MAX_BYTES)
        return pd.read_parquet(file)
