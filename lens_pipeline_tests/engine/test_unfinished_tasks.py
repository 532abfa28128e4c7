"""Tasks whose webhook does not come."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import dagster as dg
import pytest

from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import unfinished_tasks
from lens_pipeline.engine import unfinished_tasks as module
from lens_pipeline.engine.unfinished_tasks import ASKED_AT_ONCE, Look, UnfinishedTasks
from lens_pipeline.event_log.daily import DayLog
from lens_pipeline.monitoring.reports import collect
from lens_pipeline_tests.providers.provider_server import PATH, ProviderServer
from lens_pipeline_tests.support.servers import Answer
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

RESULT = "https://files.example.org/r/1.jpg"


@pytest.fixture
def provider(environment: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    with ProviderServer() as started:
        for name, value in started.settings.items():
            environment.setenv(name, value)
        yield started


def _generating(site: Site, row_id: str, age: str = "2 minutes", **columns: Any) -> str:
    task_id = f"task_{row_id}"
    site.add(row_id, **{"asset_url": None, "status": "generating", "task_id": task_id} | columns)
    site.sql(
        "UPDATE generations SET updated_at = now() - CAST(:age AS interval),"
        " created_at = now() - CAST(:age AS interval) WHERE id = :id",
        age=age,
        id=row_id,
    )
    return task_id


def _rows(site: Site) -> dict[str, tuple[str, str | None]]:
    found = site.sql("SELECT id, status, asset_url FROM generations")
    return {row_id: (status, url) for row_id, status, url in found}


def _look(site: Site, tasks: UnfinishedTasks) -> Look:
    return tasks.look(site.pipeline, site.dagster)


def _cost_of_today(site: Site) -> float | None:
    with closing(DayLog(site.dagster_url)) as log:
        figures = collect.report(site.pipeline, log, collect.today()).summary
    (photos,) = [row for row in figures if row["kind"] == "photo"]
    return photos["credits"]


def test_rows_are_finished_as_their_webhooks_would_have(
    site: Site, provider: ProviderServer
) -> None:
    urls = (RESULT, "https://files.example.org/r/2.jpg")
    provider.say(_generating(site, "done"), "success", *urls, creditsConsumed=12.5)
    provider.say(_generating(site, "failed"), "fail", failMsg="flagged")
    provider.say(_generating(site, "under-way"), "generating")
    provider.say(_generating(site, "veo"), "generating")
    provider.say(_generating(site, "fresh", age="30 s"), "success", RESULT)
    provider.say(_generating(site, "given-up", status="Canceled"), "success", RESULT)
    provider.say(_generating(site, "finished", status="success", asset_url="k.png"), "fail")
    provider.say(_generating(site, "another", type="audio"), "success", RESULT)
    tasks = UnfinishedTasks()
    found = _look(site, tasks)
    assert sorted(found.finished) == ["done", "failed"]
    assert (found.unfinished, found.asked, found.problems) == (4, 4, set())
    assert _rows(site) == {
        "done": ("success", RESULT),
        "failed": ("failed", None),
        "under-way": ("generating", None),
        "veo": ("generating", None),
        "fresh": ("generating", None),
        "given-up": ("Canceled", None),
        "finished": ("success", "k.png"),
        "another": ("generating", None),
    }
    assert site.pipeline.log.extra_urls("photo_generation", ["done"])
    assert _cost_of_today(site) == 12.5
    # Each has its pause.
    assert _look(site, tasks).asked == 0
    assert UnfinishedTasks().look(site.pipeline, site.dagster).asked == 2


def test_all_have_their_turn_within_the_limit(
    site: Site, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is asked for again and again while others wait."""
    names = [f"p{number:02}" for number in range(2 * ASKED_AT_ONCE + 3)]
    for name in names:
        provider.say(_generating(site, name), "generating")
    monkeypatch.setattr(module, "_PAUSES", ((float("inf"), 0.0),))
    monkeypatch.setattr(module, "TICK_SECONDS", 0.5)
    tasks, began = UnfinishedTasks(), time.monotonic()
    assert [_look(site, tasks).asked for _ in range(3)] == [ASKED_AT_ONCE] * 3
    assert set(provider.asked) == {f"task_{name}" for name in names}
    # Ticks that follow each other faster than they should.
    assert time.monotonic() - began >= 2 * 0.5


def test_a_limit_is_kept_to(site: Site, provider: ProviderServer) -> None:
    for number in range(5):
        provider.say(_generating(site, f"p{number}"), "success", RESULT)
    provider.answer_first(PATH, Answer(429, headers={"Retry-After": "60"}))
    tasks = UnfinishedTasks()
    found = _look(site, tasks)
    assert any("limits us" in problem for problem in found.problems)
    asked = len(provider.asked)
    assert asked <= 5
    assert _look(site, tasks).finished == []
    assert len(provider.asked) == asked


def test_an_unknown_task_is_named_and_its_row_left_alone(
    site: Site, provider: ProviderServer, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = _generating(site, "old", age="25 hours"), _generating(site, "new")
    tasks = UnfinishedTasks()
    found = _look(site, tasks)
    assert (found.unknown, found.finished) == ([old], [])
    assert "'old'" in caplog.text
    assert "'new'" not in caplog.text
    assert sorted(provider.asked) == sorted([old, new])
    assert {status for status, _ in _rows(site).values()} == {"generating"}
    # It is still named when it is not asked for.
    assert _look(site, tasks).unknown == [old]


def test_the_sensor_says_what_it_found(
    site: Site, provider: ProviderServer, environment: pytest.MonkeyPatch
) -> None:
    provider.say(_generating(site, "p1"), "success", RESULT)
    site.sql("ALTER TABLE generations ADD COLUMN provider text")
    _generating(site, "p2")
    site.sql("UPDATE generations SET provider = 'nobody' WHERE id = 'p2'")

    def said() -> str:
        with dg.build_sensor_context(
            instance=site.dagster, resources={"lens": LensResource()}
        ) as context:
            answer = unfinished_tasks(site.pipeline.settings)(context)
        assert isinstance(answer, dg.SkipReason)
        return answer.skip_message or ""

    assert said() == (
        "2 tasks without an end, 1 asked for; 1 finished; 1 are of 'nobody', which is not set up"
    )


def test_a_row_that_cannot_be_written_keeps_no_other_from_its_end(
    site: Site, provider: ProviderServer
) -> None:
    """A host's CHECK that forbids `failed`, for example."""
    site.sql("ALTER TABLE generations ADD CHECK (status <> 'failed')")
    for name, state in (("a", "fail"), ("b", "success"), ("c", "fail"), ("d", "success")):
        provider.say(_generating(site, name), state, RESULT)
    found = _look(site, UnfinishedTasks())
    assert sorted(found.finished) == ["b", "d"]
    assert len(found.problems) == 2


def test_a_provider_that_hangs_is_left_alone_and_stops_no_other(
    site: Site, provider: ProviderServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(module, "_ANSWER_SECONDS", 0.5)
    provider.misbehave(PATH, "/hangs")
    for number in range(8):
        _generating(site, f"p{number}")
    tasks = UnfinishedTasks()
    assert any("did not answer" in one for one in _look(site, tasks).problems)
    asked = len(provider.asked)
    assert asked <= 5
    assert _look(site, tasks).asked == 0
