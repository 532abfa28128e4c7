"""What the backfill finds and what it keeps of it."""

import datetime as dt
import tracemalloc
from collections.abc import Iterator

import pytest

from lens_pipeline.derivatives import backfill
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline_tests.support.site import Site


def test_a_library_to_be_adopted_is_only_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte of memory every five minutes, for rows that are left alone."""
    old = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

    def pages(*_: object) -> Iterator[list[DerivativeStatus]]:
        for page in range(50):
            names = (f"{page}-{number}" for number in range(400))
            yield [DerivativeStatus("preview", name, finished_at=old) for name in names]

    monkeypatch.setattr(backfill, "status_pages", pages)
    tracemalloc.start()
    try:
        found = backfill.survey(site.pipeline, PREVIEW, bulk=False, limit=100)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.unrecorded_old, found.needed) == (20_000, [])
    assert most_bytes < 2_000_000
