"""The walk that finds the oldest row whose derivative is still to be made."""

import datetime as dt
from collections.abc import Callable

import pytest

from lens_pipeline.catalog.rows import Position
from lens_pipeline.derivatives.registry import MASTER, PREVIEW
from lens_pipeline.monitoring.backlog import BacklogScanner
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow


def _hours(moment: dt.datetime | None) -> int | None:
    """How many hours ago, rounded."""
    return moment and round((dt.datetime.now(dt.UTC) - moment).total_seconds() / 3600)


def test_an_empty_table(site: Site) -> None:
    assert BacklogScanner(site.pipeline, PREVIEW).oldest() is None


def test_the_mark_moves_on_and_what_is_behind_it_is_told(
    site: Site, photo: Callable[[str], str]
) -> None:
    scanner = BacklogScanner(site.pipeline, PREVIEW)
    site.add_many(["a", "b"], photo, age="5 h")
    assert _hours(scanner.oldest()) == 5
    site.once()
    site.add_many(["c"], photo, age="3 h")
    assert _hours(scanner.oldest()) == 3
    site.once()
    assert scanner.oldest() is None
    # Nothing of the log tells of that: its time stays behind the mark.
    site.sql("UPDATE generations SET asset_url = 'ftp://example.org/x' WHERE id = 'a'")
    assert scanner.oldest() is None
    scanner.note(["a"])
    assert _hours(scanner.oldest()) == 5
    site.once()  # for good, since the address is none that is fetched from
    assert scanner.oldest() is None


def test_looking_at_everything_again_finds_what_nobody_told_of(
    site: Site, photo: Callable[[str], str]
) -> None:
    scanner = BacklogScanner(site.pipeline, PREVIEW)
    site.add_many(["a"], photo, age="5 h")
    site.once()
    assert scanner.oldest() is None
    site.sql("UPDATE generations SET asset_url = 'b.jpg' WHERE id = 'a'")
    scanner.restart()
    assert _hours(scanner.oldest()) == 5


def test_a_row_that_commits_late_is_found(site: Site, photo: Callable[[str], str]) -> None:
    scanner = BacklogScanner(site.pipeline, PREVIEW)
    site.add("a", photo("a"))
    site.once()
    assert scanner.oldest() is None
    site.add_many(["b"], photo, age="30 s")
    assert scanner.oldest() is not None


def test_a_mark_in_the_future_hides_nothing(site: Site, photo: Callable[[str], str]) -> None:
    """A backlog that nobody is told of, after the database's clock was fast for a minute."""
    scanner = BacklogScanner(site.pipeline, PREVIEW)
    assert scanner.oldest() is None
    scanner._mark = Position(dt.datetime.now(dt.UTC) + dt.timedelta(hours=4), "seen")
    site.add_many(["a"], photo, age="5 h")
    assert _hours(scanner.oldest()) == 5


def test_what_waits_counts_once_it_does_not(site: Site) -> None:
    project = Project(site)
    scanner = BacklogScanner(site.pipeline, MASTER)
    site.add("v", None, type="video", status="generating", updated_at="2026-01-01")
    project.asset("v", generation_id="v")
    project.master("m", ["v"])
    site.sql("UPDATE master_videos SET updated_at = now() - interval '7 h'")
    site.sql("UPDATE project_assets SET created_at = now() - interval '7 h'")
    assert scanner.oldest() is None
    site.sql("UPDATE generations SET status = 'success', asset_url = 'v.mp4'")
    assert _hours(scanner.oldest()) == 7


@pytest.mark.parametrize(("rows", "age"), [(501, None), (500, 72)])
def test_a_library_to_be_adopted_does_not_wait(site: Site, rows: int, age: int | None) -> None:
    """An alarm of two years as the first thing that a new pipeline says."""
    scanner = BacklogScanner(site.pipeline, PREVIEW)
    site.add_many([f"p{number:03}" for number in range(rows)], lambda _: "x.jpg", age="3 days")
    assert _hours(scanner.oldest()) == age
    site.add_many(["new"], lambda _: "x.jpg", age="5 h")
    assert _hours(scanner.oldest()) == (age or 5)
    scanner.restart()
    assert _hours(scanner.oldest()) == (age or 5)


def test_a_failed_file_waits_from_its_next_attempt_on(site: Site, server: HostileServer) -> None:
    """An alarm each time that one source is away for longer than a few minutes."""
    scanner = BacklogScanner(site.pipeline, PREVIEW)
    server.answer_first("/a.jpg", Answer(503, headers={"Retry-After": "600"}))
    site.add_many(["a"], lambda _: server.url("/a.jpg", host="localhost"), age="5 h")
    site.once()
    assert scanner.oldest() is None
    site.age_events("2 h")
    assert _hours(scanner.oldest()) == 2


def test_rows_without_any_time_have_no_age(site: Site) -> None:
    site.sql("ALTER TABLE generations ALTER COLUMN created_at DROP NOT NULL")
    site.add("a", "https://example.org/a.jpg", created_at=None, updated_at=None)
    assert BacklogScanner(site.pipeline, PREVIEW).oldest() is None
