"""From what is known to what is a problem."""

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.restarts import Restarts
from lens_pipeline.derivatives.originals import Unsaved, UnsavedOriginals
from lens_pipeline.derivatives.registry import assets
from lens_pipeline.event_log.counters import FigureLog, HourlyOutcome
from lens_pipeline.monitoring.alerts.conditions import Seen, judge
from lens_pipeline.monitoring.backlog import Backlog
from lens_pipeline.monitoring.probes.host import DiskMonitor, Space
from lens_pipeline.settings import Settings
from lens_pipeline_tests.support.site import Site

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SETTINGS = Settings()
WELL = Seen(
    services=dict.fromkeys(("database", "broker", "store", "daemon")),
    workers={"previews": 1, "masters": 1},
    backlog=Backlog({}, {}, (), {}),
    outcome=HourlyOutcome(1000, 5),
    disks={Path("/x"): Space(50, 100)},
)


def _waiting(kind: Kind, seconds: float) -> Backlog:
    return Backlog({kind: NOW - dt.timedelta(seconds=seconds)}, {}, (), {})


def _unsaved(late: int, older: int) -> Backlog:
    since = NOW - dt.timedelta(hours=3)
    counts = UnsavedOriginals(Unsaved(late, since if late else None), Unsaved(older, since))
    return Backlog({}, {}, (), {Kind.VIDEO: counts})


def _restarts(first_ago: float) -> dict[str, Restarts]:
    return {
        "api": Restarts(5, tuple(NOW.timestamp() - ago for ago in (first_ago, 30, 1))),
        "web": Restarts(2, (NOW.timestamp() - 2, NOW.timestamp() - 1)),
    }


def test_all_is_well() -> None:
    assert judge(WELL, SETTINGS, NOW) == ([], set())
    # A process that ends now and then comes to work again.
    assert judge(replace(WELL, restarts=_restarts(601)), SETTINGS, NOW) == ([], set())


@pytest.mark.parametrize(
    ("seen", "key", "words"),
    [
        (replace(WELL, services={"store": "cannot be read"}), "store", "the store cannot be read"),
        (replace(WELL, workers={"previews": 1, "masters": 0}), "workers masters", "masters"),
        (
            replace(WELL, webhooks={"webhook 1 (h)": "has not taken messages for 15 min"}),
            "webhook 1 (h)",
            "webhook 1 (h) has not taken",
        ),
        (replace(WELL, backlog=_waiting(Kind.PHOTO, 601)), "oldest", "photo 10 min"),
        (replace(WELL, backlog=_waiting(Kind.MASTER, 3601)), "oldest", "master 60 min"),
        (replace(WELL, backlog=_unsaved(2, 9)), "originals", "2 of videos, the oldest after 3 h"),
        (replace(WELL, outcome=HourlyOutcome(98, 2, "X")), "success", "often by X"),
        (replace(WELL, disks={Path("/x"): Space(9, 100)}), "disk /x", "9 %"),
        (replace(WELL, restarts=_restarts(599)), "restarts api", "again, 5 times by now: see"),
        (replace(WELL, disks={Path("/x"): "cannot be read"}), "disk /x", "of /x cannot be read"),
    ],
)  # fmt: skip
def test_one_thing_is_wrong(seen: Seen, key: str, words: str) -> None:
    (problem,), unknown = judge(seen, SETTINGS, NOW)
    assert problem.key == key
    assert words in problem.text
    assert unknown == {"database", "broker", "store", "daemon"} - seen.services.keys()


@pytest.mark.parametrize(
    "backlog", [_waiting(Kind.PHOTO, 599), _waiting(Kind.MASTER, 3599), _waiting(Kind.VIDEO, -60)]
)
def test_work_takes_its_time(backlog: Backlog) -> None:
    assert judge(replace(WELL, backlog=backlog), SETTINGS, NOW) == ([], set())


@pytest.mark.parametrize("backlog", [_waiting(Kind.PHOTO, 10_000), _unsaved(2, 0)])
def test_a_pause_is_no_problem(backlog: Backlog) -> None:
    seen = replace(WELL, backlog=backlog)
    assert judge(seen, Settings(enabled=False), NOW)[0] == []


def test_an_older_library_without_originals_alerts_nobody() -> None:
    assert judge(replace(WELL, backlog=_unsaved(0, 1_000_000)), SETTINGS, NOW) == ([], set())
    still_counted = replace(WELL, backlog=Backlog({}, {}, ()))
    assert judge(still_counted, SETTINGS, NOW) == ([], {"originals"})


def test_one_failure_of_few_files_is_no_share_to_speak_of() -> None:
    """Nor the end of a bad hour; that is over once nothing fails."""
    assert judge(replace(WELL, outcome=HourlyOutcome(40, 1)), SETTINGS, NOW) == ([], {"success"})
    assert judge(replace(WELL, outcome=HourlyOutcome(0, 0)), SETTINGS, NOW) == ([], set())


def test_what_is_not_known_is_said_to_be() -> None:
    seen = Seen({"database": "cannot be read"}, None, None, None, {})
    problems, unknown = judge(seen, SETTINGS, NOW)
    assert [problem.key for problem in problems] == ["database"]
    assert unknown == {
        *("broker", "store", "daemon", "workers previews", "workers masters"),
        *("oldest", "dead_letters", "originals", "success"),
    }


def test_each_disk_is_looked_at_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store_url=(tmp_path / "store").as_uri())
    (tmp_path / "store").mkdir()
    ((path, space),) = asyncio.run(DiskMonitor(settings).look()).items()
    assert path == tmp_path
    assert isinstance(space, Space)
    assert 0 < space.free < space.total


@pytest.mark.slow
def test_the_last_hour_counts_each_file_as_it_came_out_last(
    site: Site, photo: Callable[[str], str]
) -> None:
    site.add("good", photo("good"))
    site.add("mended", "http://127.0.0.1/none.jpg")
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.once()
    log = FigureLog(site.dagster_url)
    now, error = dt.datetime.now(dt.UTC), "UnsafeAddress"
    assert log.outcome(assets(), now - dt.timedelta(hours=1)) == HourlyOutcome(1, 2, error)
    site.sql("UPDATE generations SET asset_url = :url WHERE id = 'mended'", url=photo("mended"))
    site.once()
    assert log.outcome(assets(), now - dt.timedelta(hours=1)) == HourlyOutcome(2, 1, error)
    assert log.outcome(assets(), now) == HourlyOutcome(1, 0)
    assert log.outcome(assets(), dt.datetime.now(dt.UTC)) == HourlyOutcome(0, 0)
    log.close()
