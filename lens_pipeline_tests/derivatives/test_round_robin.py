"""Turns: in which order users get what they wait for."""

import threading

import pytest

from lens_pipeline.derivatives.backfill import survey
from lens_pipeline.derivatives.registry import PREVIEW, PREVIEWS, QUEUE_TAG
from lens_pipeline.derivatives.round_robin import next_runs, round_robin
from lens_pipeline.event_log.queue import Waiting
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.ticker import Ticker

URL = "https://example.com/x.jpg"


@pytest.mark.parametrize(
    ("arrived", "order"),
    [
        ("", ""),
        ("aaa", "aaa"),
        ("abc", "abc"),
        ("aaaab", "abaaa"),
        ("aaabbc", "abcaba"),
    ],
)
def test_each_owner_gets_a_turn(arrived: str, order: str) -> None:
    """One who waits for everything that somebody else has asked for."""
    assert "".join(round_robin(arrived, lambda who: who)) == order


def test_owners_keep_their_own_order() -> None:
    """A user's photos that come in any order."""
    items = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]
    placed = round_robin(items, lambda item: item[0])
    assert [number for who, number in placed if who == "a"] == [1, 2, 3]


def test_turns_under_way_count() -> None:
    """A user whose next run begins each time because the last one is no longer in the queue."""
    assert round_robin("aabb", lambda who: who, {"a": 2}) == list("bbaa")


def _waiting(text: str) -> list[Waiting]:
    """`a0 b-2` are runs of a and b, with these priorities; M0 waits for masters."""
    return [
        Waiting(
            f"{number}{word}",
            "masters" if word[0].isupper() else "previews",
            int(word[1:]),
            word[0].lower(),
        )
        for number, word in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("waiting", "slots", "under_way", "chosen"),
    [
        ("a0 a0 a0", 2, {}, "0a0 1a0"),
        ("a0 a0 a0 b0", 2, {}, "0a0 3b0"),
        ("a0 a0 b0", 2, {("previews", "a"): 1}, "2b0"),
        ("a0 b0", 1, {("previews", "c"): 1}, ""),
        ("a0 b0", 0, {}, ""),
        # New before retries, those before gaps, whoever's they are.
        ("c-2 b-1 a0 a0", 3, {("previews", "a"): 0}, "2a0 3a0 1b-1"),
        ("M0 a0 N0", 1, {("masters", "x"): 1}, "1a0"),
    ],
)
def test_runs_begin_by_priority_and_turn(
    waiting: str, slots: int, under_way: dict[tuple[str, str], int], chosen: str
) -> None:
    """A queue in which ten thousand runs of one user stand before one of another."""
    slots_of = {"previews": slots, "masters": 1}
    assert next_runs(_waiting(waiting), slots_of, under_way) == chosen.split()


@pytest.mark.slow
def test_one_photo_beside_ten_thousand_is_asked_for_at_once(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """A catch-up page of one user's that everybody else waits for."""
    environment.setenv("LENS_BATCH_SIZE", "5")
    ticker = Ticker(site)
    many = [f"a{number:05}" for number in range(10_000)]
    site.add_many(many, lambda _: URL)
    asked = ticker.tick()
    assert asked == many[:25]
    site.add("single", URL, user_id="u2")
    site.add("another", URL, user_id="u3")
    asked += ticker.tick()
    assert {"single", "another"} <= set(ticker.requested[5])
    # Nothing is left out, or asked for twice, for those that went ahead.
    for _ in range(4):
        asked += ticker.tick()
    assert asked == [*many[:26], "single", "another", *many[26:148]]


@pytest.mark.slow
def test_a_backlog_with_many_users_is_worked_off(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """Rows that are never asked for because the cursor has passed them."""
    environment.setenv("LENS_BATCH_SIZE", "4")
    ticker = Ticker(site)
    ids = [f"p{number:03}" for number in range(300)]
    site.add_many(ids, lambda _: URL)
    site.sql("UPDATE generations SET user_id = 'u' || (substr(id, 2)::int % 7)")
    # One user has most of it, and one row can never be used.
    site.sql("UPDATE generations SET user_id = 'much' WHERE id < 'p200'")
    site.add("../bad", URL, updated_at="2026-01-01T00:00:00Z")
    asked: list[str] = []
    while found := ticker.tick():
        asked += found
    assert sorted(asked) == ids
    # By turns, the others were done after eight of each.
    assert max(asked.index(key) for key in ids[200:]) < 8 * 20
    assert len(ticker.requested) == 75


@pytest.mark.slow
def test_a_full_queue_leaves_rows_in_their_table(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """Hundreds of runs of one user in the queue, planned before the next user's row is there."""
    environment.setenv("LENS_BATCH_SIZE", "1")
    ticker = Ticker(site, queued=True)
    site.add_many([f"a{number:02}" for number in range(30)], lambda _: URL)
    assert [len(ticker.tick()) for _ in range(4)] == [5, 5, 0, 0]
    site.add("single", URL, user_id="u2")
    site.dagster.report_run_canceled(site.runs()[-1])
    site.dagster.report_run_canceled(site.runs()[-2])
    # The turns under way are for the daemon to count.
    assert ticker.tick() == ["a10", "single"]
    waiting = site.pipeline.runs.load("dagster-celery/queue", "previews", 3).waiting
    first = next_runs(waiting, {"previews": 2}, {("previews", "u1"): 1})
    owners = {run.run_id: run.owner for run in waiting}
    assert [owners[run_id] for run_id in first] == ["u2"]


@pytest.mark.slow
def test_gaps_are_filled_by_turns(site: Site) -> None:
    """A user's missing previews that come after all of another's, five hundred every tick."""
    site.add_many([f"a{number:02}" for number in range(30)], lambda _: URL)
    site.add("single", URL, user_id="u2")
    found = survey(site.pipeline, PREVIEW, bulk=False, limit=4)
    assert [status.id for status in found.needed] == ["a00", "single", "a01", "a02"]


@pytest.mark.slow
def test_a_run_of_a_command_takes_no_slot_of_a_worker(site: Site, server: HostileServer) -> None:
    """A new photo that waits for `lens backfill` beside an idle worker."""
    site.add("new", URL)
    Ticker(site, queued=True).tick()
    site.add("slow", server.url("/slow-body", host="localhost"))
    begun: list[list[str]] = []

    def look() -> None:
        eventually(lambda: server.requests["/slow-body"], what="the download")
        load = site.pipeline.runs.load(QUEUE_TAG, PREVIEWS, 1)
        begun.append(next_runs(load.waiting, {PREVIEWS: 1}, load.under_way))

    (queued,) = site.runs()
    watch = threading.Thread(target=look)
    watch.start()
    site.lens("backfill", "slow")
    watch.join()
    assert begun == [[queued.run_id]]
