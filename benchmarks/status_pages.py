"""Whether a page of the library costs as much at 100,000 generations as at 1,000.

Two stacks, one with a short past and one with a long one, are asked in turns, request by request,
so that whatever else the machine does concerns both alike. A page is asked for over HTTP: 60
generations with their derived status.
"""

import http.client
import json
import statistics
import time
from contextlib import ExitStack, closing
from urllib.parse import urlencode

import sqlalchemy as sa

from benchmarks.history import fill
from benchmarks.photos import jpegs
from benchmarks.running_stack import USER, RunningStack, running_stack
from lens_pipeline.catalog.generations import Place
from lens_pipeline.derivatives.library import write_cursor

_SIZES, _QUICK_SIZES = (1_000, 100_000), (1_000, 5_000)
# Of each page; the first of them are not counted.
_REQUESTS, _QUICK_REQUESTS, _WARM_UP = 80, 10, 5
_PAGE = 60
_RARE_USER = "rare"
# The reconciling backfill would disturb some rounds and not others; the sensors tick as they do.
_SETTINGS = {"LENS_BACKFILL_CRON": "0 0 29 2 *"}


def run(quick: bool = False) -> dict[str, float]:
    """`status_page_growth_100k` is that of the page that grows most: 1.5 is half as long again."""
    sizes = _QUICK_SIZES if quick else _SIZES
    with ExitStack() as stacks:
        small, large = (stacks.enter_context(running_stack(_SETTINGS)) for _ in sizes)
        for stack, other, size in ((small, large, sizes[0]), (large, small, sizes[1])):
            with other.paused():
                _prepare(stack, size)
        for stack in (small, large):
            stack.await_idle()
        pairs = zip(_pages(small, sizes[0]), _pages(large, sizes[1]), strict=True)
        requests = _QUICK_REQUESTS if quick else _REQUESTS
        seconds = {
            name: _compare((small, query), (large, other_query), requests)
            for (name, query), (_, other_query) in pairs
        }
    growth = {name: large / small for name, (small, large) in seconds.items()}
    return {
        "status_page_growth_100k": max(growth.values()),
        **{f"status_page_{name}_growth_100k": value for name, value in growth.items()},
        "status_page_seconds_1k": seconds["first"][0],
        "status_page_seconds_100k": seconds["first"][1],
    }


def _prepare(stack: RunningStack, size: int) -> None:
    (source,) = stack.store_files(jpegs(1, 1024, 1024))
    fill(stack, source, size)
    with stack.application.begin() as connection:
        # The last in the order of the library: a plan that looks for them there reads all others.
        connection.execute(_ADD_RARE, {"user": _RARE_USER, "count": _PAGE})


def _pages(stack: RunningStack, size: int) -> list[tuple[str, str]]:
    """Name and query of each page."""
    with stack.application.connect() as connection:
        row = connection.execute(_DEEP, {"depth": size * 9 // 10}).one()
    deep = write_cursor(Place(row.updated_at, row.id))
    wanted: dict[str, dict[str, object]] = {
        "first": {},
        "deep": {"cursor": deep},
        "user": {"user_id": USER},
        "user_deep": {"user_id": USER, "cursor": deep},
        "rare_user": {"user_id": _RARE_USER},
        "type": {"type": "photo"},
        "ready": {"status": "ready"},
    }
    return [(name, urlencode({"limit": _PAGE} | query)) for name, query in wanted.items()]


def _compare(
    small: tuple[RunningStack, str], large: tuple[RunningStack, str], requests: int
) -> tuple[float, float]:
    """Median seconds of a page of each."""
    found: tuple[list[float], list[float]] = [], []
    with ExitStack() as stack:
        connections = [
            stack.enter_context(closing(_connect(one.settings.api_port)))
            for one, _ in (small, large)
        ]
        for number in range(_WARM_UP + requests):
            for seconds, connection, (_, query) in zip(
                found, connections, (small, large), strict=True
            ):
                taken = _ask(connection, query)
                if number >= _WARM_UP:
                    seconds.append(taken)
    return statistics.median(found[0]), statistics.median(found[1])


def _connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def _ask(connection: http.client.HTTPConnection, query: str) -> float:
    """Seconds of one request."""
    started = time.perf_counter()
    connection.request("GET", f"/api/generations?{query}")
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - started
    if answer.status != 200 or len(json.loads(body)["generations"]) != _PAGE:
        raise RuntimeError(f"{query}: no page of {_PAGE}: {body[:200]!r}")
    return seconds


_ADD_RARE = sa.text(
    """
    INSERT INTO generations (id, user_id, type, status, asset_url, created_at, updated_at)
    SELECT :user || number, :user, 'photo', 'generating', NULL, at, at
      FROM generate_series(1, :count) AS number
     CROSS JOIN LATERAL (SELECT now() - interval '1 year' AS at) past
    """
)
_DEEP = sa.text(
    "SELECT id, updated_at FROM generations ORDER BY updated_at DESC OFFSET :depth LIMIT 1"
)
