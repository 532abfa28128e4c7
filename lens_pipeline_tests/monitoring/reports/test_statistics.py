"""A day's figures, and what is made of them."""

import datetime as dt
import json
from collections import defaultdict
from typing import Any

import dagster as dg
import pytest
from matplotlib.axes import Axes

from lens_pipeline.defs.checks import dead_letters_attended, service_levels
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.monitoring.reports import chart, statistics

DAY = dt.date(2026, 3, 1)
MIDDAY = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
NEXT_DAY = dt.datetime(2026, 3, 2, 0, 20, tzinfo=dt.UTC)
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def made(number: int, latency: float, kind: str = "photo", **changed: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "id": f"f{number}",
        "state": "ready",
        "finished_at": MIDDAY,
        "latency_seconds": latency,
        "fetch_seconds": 0.1,
        "render_seconds": 0.2,
        "store_seconds": 0.3,
        "bytes_in": 1000 + number,
        "bytes_out": 10,
    } | changed


def not_made(number: int, state: str, kind: str = "photo", **changed: Any) -> dict[str, Any]:
    row = {"kind": kind, "id": f"n{number}", "state": state, "finished_at": MIDDAY}
    return row | changed


def summary(
    files: list[dict[str, Any]],
    attempts: list[dict[str, Any]] | None = None,
    as_of: dt.datetime = NEXT_DAY,
) -> list[dict[str, Any]]:
    return statistics.summarize(
        DAY, ["photo", "video"], files, attempts or [], {"photo": 2.5}, as_of
    )


def test_a_day_is_counted_by_kind() -> None:
    attempts = [{"kind": "photo", "error_class": name} for name in ("B", "A", "B")]
    files = [
        *(made(number, latency=number) for number in range(1, 101)),
        not_made(1, "failed"), not_made(2, "dead"), not_made(3, "waiting"),
        made(1, 5, "video"),
    ]  # fmt: skip
    photo, video = summary(files, attempts)
    assert [photo[name] for name in ("finished", "ready", "failed", "dead", "waiting")] == [
        *(103, 100, 1, 1, 1),
    ]
    # Of all that finished, whatever became of it.
    assert (photo["judged"], photo["in_time"]) == (103, 60)
    assert photo["in_time_share"] == pytest.approx(60 / 103)
    assert photo["latency_p50_seconds"] == 50.5
    assert photo["latency_p95_seconds"] == pytest.approx(95.05)
    assert photo["latency_p99_seconds"] == pytest.approx(99.01)
    assert (photo["fetch_p50_seconds"], photo["store_p99_seconds"]) == (0.1, 0.3)
    assert (photo["bytes_in"], photo["bytes_out"]) == (105_050, 1000)
    assert json.loads(photo["failures"]) == {"A": 1, "B": 2}
    assert (video["finished"], video["in_time_share"], video["failures"]) == (1, 1.0, "{}")


def test_what_may_still_be_in_time_is_not_judged() -> None:
    """A report of today that says something is late which has just come."""
    now = MIDDAY + dt.timedelta(seconds=59)
    files = [made(1, 1), not_made(1, "waiting"), not_made(2, "failed"), not_made(3, "dead")]
    photo = summary(files, as_of=now)[0]
    assert (photo["finished"], photo["judged"], photo["in_time_share"]) == (4, 2, 0.5)


def test_a_day_without_files_has_a_report_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, or a chart that looks broken."""
    written: list[str] = []
    monkeypatch.setattr(Axes, "text", lambda *values, **_: written.append(values[3]))
    photo = summary([])[0]
    assert photo["finished"] == 0
    assert photo["in_time_share"] is photo["latency_p50_seconds"] is None
    assert statistics.extremes(DAY, []) == []
    assert chart.draw(DAY, []).startswith(b"\x89PNG")
    assert written == ["no files", "no files"]
    assert service_levels(summary([])).passed


def test_the_slowest_and_the_largest_are_named_worst_first() -> None:
    files = [made(number, latency=100 - number) for number in range(30)]
    files.append(not_made(1, "dead", latency_seconds=1e9, bytes_in=10**12))
    by_list = defaultdict(list)
    for row in statistics.extremes(DAY, files):
        by_list[row["list"]].append(row["id"])
    assert by_list["slowest"] == [f"f{number}" for number in range(10)]
    assert by_list["largest"] == [f"f{number}" for number in range(29, 19, -1)]


def test_the_picture_of_a_busy_day_is_small() -> None:
    """A log that grows by more for its reports than for its files."""
    files = [
        made(n, 0.5 + n % 90, finished_at=MIDDAY.replace(hour=n % 24)) for n in range(2000)
    ]  # fmt: skip
    by_hour = statistics.hours(files)
    assert sum(row["in_time"] + row["late"] for row in by_hour) == 2000
    assert 5_000 < len(chart.draw(DAY, files)) < 40_000


@pytest.mark.parametrize(
    ("in_time", "late", "dead", "passed", "severity"),
    [
        (1000, 10, 0, True, None),
        (990, 11, 0, False, ERROR),
        # One file alone of a small day proves nothing; two do.
        (3, 1, 0, True, None),
        (3, 2, 0, False, ERROR),
        # Only dead letters, each with a reason of its own.
        (900, 0, 100, False, WARN),
        (900, 20, 100, False, ERROR),
    ],
)
def test_service_levels(
    in_time: int, late: int, dead: int, passed: bool, severity: dg.AssetCheckSeverity | None
) -> None:
    files = [made(number, 1) for number in range(in_time)]
    files += [made(number, 61) for number in range(late)]
    files += [not_made(number, "dead") for number in range(dead)]
    # A master takes minutes by its nature.
    files += [made(number, 900, "master") for number in range(50)]
    result = service_levels(summary(files))
    assert result.passed is passed
    if severity:
        assert result.severity is severity
        assert "photos were not ready within 60 s" in str(result.description)


def test_a_dead_letter_is_a_warning_and_an_old_one_an_error() -> None:
    def letter(hours: float) -> DerivativeStatus:
        facts = {"at": NEXT_DAY - dt.timedelta(hours=hours)}
        return DerivativeStatus("preview", "p1", error_class="SourceMissing", facts=facts)

    assert dead_letters_attended([], NEXT_DAY).passed
    young = dead_letters_attended([letter(2)], NEXT_DAY)
    assert (young.passed, young.severity) == (False, WARN)
    old = dead_letters_attended([letter(25), letter(2)], NEXT_DAY)
    assert (old.passed, old.severity) == (False, ERROR)
    assert old.metadata["over_a_day"].value == 1
