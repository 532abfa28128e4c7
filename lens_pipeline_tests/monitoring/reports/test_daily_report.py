"""The report of a day whose files were made by the pipeline itself."""

import datetime as dt
import io
from collections.abc import Callable
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation

from lens_pipeline.definitions import defs
from lens_pipeline.defs.checks import DEAD_LETTERS, SERVICE_LEVELS
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.schedules import daily_report
from lens_pipeline.derivatives.registry import MASTERS, QUEUE_TAG, REPORT_DAYS
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.monitoring.reports import archive
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]


def _move(site: Site, seconds: float) -> None:
    """Let everything have happened so much earlier."""
    site.sql(
        "UPDATE generations SET created_at = created_at - make_interval(secs => :s),"
        " updated_at = updated_at - make_interval(secs => :s)",
        s=seconds,
    )
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sa.text('UPDATE event_logs SET "timestamp" = "timestamp" - make_interval(secs => :s)'),
            {"s": seconds},
        )


def _report(site: Site, day: dt.date) -> dg.DagsterRun:
    """Make the day's report as the schedule does."""
    site.dagster.add_dynamic_partitions(REPORT_DAYS, [day.isoformat()])
    job = defs().get_repository_def().get_job("daily_reports")
    tags = {"dagster/partition": day.isoformat()}
    run_id = create_run(site.dagster, job, tags, silent=True).run_id
    execute(site.dagster, run_id)
    run = site.dagster.get_run_by_id(run_id)
    assert run is not None
    return run


def _check(site: Site, name: str) -> AssetCheckEvaluation:
    """The last word of a check, as Dagster's UI reads it."""
    key = dg.AssetCheckKey(dg.AssetKey("daily_report"), name)
    (record,) = site.dagster.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    evaluation = record.event.get_dagster_event().event_specific_data
    assert isinstance(evaluation, AssetCheckEvaluation)
    return evaluation


def _photos(site: Site) -> list[dict[str, Any]]:
    """What `lens report` says of photos of yesterday and today."""
    return [
        {**photos, "source": day["source"], "slowest": day["slowest"]}
        for day in site.lens("report", "--days", "2", "--json").json["days"]
        for photos in day["kinds"]
        if photos["kind"] == "photo"
    ]


def test_a_day_is_reported_as_it_went(site: Site, photo: Photo) -> None:
    """One day with everything that is easily counted twice, never, or on the wrong day."""
    for name in ("a", "b", "again", "touched"):
        site.add(name, photo(name))
    site.add("dead", "http://127.0.0.1/none.jpg")
    site.add("later", "http://localhost:9/none.jpg")
    # There before the pipeline was: nobody waited for it.
    site.add("adopted", "https://example.com/x.jpg")
    folder = site.store / "u1" / "previews"
    folder.mkdir(parents=True)
    (folder / "adopted_preview.webp").write_bytes(b"webp")
    assert site.lens("adopt", "--json").json["adopted"] == 1
    site.once()
    now = dt.datetime.now(dt.UTC)
    yesterday = now.date() - dt.timedelta(days=1)
    noon = dt.datetime.combine(yesterday, dt.time(12), dt.UTC)
    _move(site, (now - noon).total_seconds())
    # Today: made once more by force, and a column changed that is none of ours.
    assert site.lens("backfill", "--force", "again").code == 0
    site.sql("UPDATE generations SET updated_at = now() WHERE id = 'touched'")

    counts = {"finished": 6, "ready": 4, "dead": 1, "failed": 1, "waiting": 0, "judged": 6}
    live, today = _photos(site)
    assert {name: live[name] for name in counts} == counts
    assert (live["source"], live["in_time"]) == ("log", 4)
    assert live["failures"] == {"HostUnreachable": 1, "UnsafeAddress": 1}
    assert {file["id"] for file in live["slowest"]} == {"a", "b", "again", "touched"}
    assert 0 < live["latency_p50_seconds"] < 60
    # Nothing of it is today's.
    assert today["finished"] == 0

    run = _report(site, yesterday)
    assert (run.status, run.tags[QUEUE_TAG]) == (dg.DagsterRunStatus.SUCCESS, MASTERS)
    kept, _ = _photos(site)
    assert {name: kept[name] for name in counts} == counts
    assert kept["source"] == "store"
    keys = archive.keys(yesterday)
    assert set(keys.values()) <= site.objects()
    table = pd.read_csv(io.BytesIO((site.store / keys["figures_csv"]).read_bytes()))
    assert table.set_index("kind")["finished"].to_dict() == {
        "photo": 6, "video": 0, "master": 0, "scaled": 0,
    }  # fmt: skip

    metadata = site.metadata("daily_report", yesterday.isoformat())
    assert "data:image/png;base64," in str(metadata["chart"].value)
    assert metadata["finished"].value == 6
    event = site.materializations("daily_report")[0].to_json()
    assert len(event) < 50_000
    # The UI shows both. One late file is forgiven, so the dead letter alone is too much.
    levels, letters = _check(site, SERVICE_LEVELS), _check(site, DEAD_LETTERS)
    assert (levels.passed, levels.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (letters.passed, letters.metadata["dead_letters"].value) == (False, 1)

    # What came right later belongs to the day it finished on; late, and said so.
    site.sql("UPDATE generations SET asset_url = :url WHERE id = 'later'", url=photo("later"))
    site.once()
    _report(site, yesterday)
    assert f"{yesterday}  photo         6      5" in site.lens("report", "--days", "2").out
    again, _ = _photos(site)
    assert (again["ready"], again["failed"], again["judged"]) == (5, 0, 6)
    assert again["in_time"] == 4
    assert again["slowest"][0]["id"] == "later"


def test_there_is_a_report_before_there_is_any(site: Site) -> None:
    output = site.lens("report", "--days", "2")
    assert (output.code, output.out) == (0, "")
    assert "2 of 2 days without any finished file" in output.err
    days = site.lens("report", "--json").json["days"]
    assert [day["source"] for day in days] == ["log"] * 7
    assert site.lens("report", "--days", "0").code == 2


def test_each_night_two_days_are_reported(site: Site, environment: pytest.MonkeyPatch) -> None:
    """Retries that end after midnight, and are in no report; or days that miss one for ever."""

    def requested() -> list[str | None]:
        context = dg.build_schedule_context(
            instance=site.dagster,
            scheduled_execution_time=dt.datetime(2026, 3, 1, 0, 20, tzinfo=dt.UTC),
            resources={"lens": LensResource()},
        )
        found = daily_report(context)
        return [request.partition_key for request in found] if isinstance(found, list) else []

    assert requested() == []
    site.add("a", "https://example.com/x.jpg", updated_at="2026-02-28T23:59:59Z")
    assert requested() == ["2026-02-28"]
    site.add("b", "https://example.com/x.jpg", updated_at="2026-02-27T00:00:00Z")
    assert requested() == ["2026-02-27", "2026-02-28"]
    assert set(site.dagster.get_dynamic_partitions(REPORT_DAYS)) == set(requested())
    environment.setenv("LENS_ENABLED", "false")
    assert requested() == []
