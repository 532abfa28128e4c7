"""What a server can do with an answer, and what becomes of the file."""

import hashlib
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lens_pipeline.errors import (
    DerivativeError,
    DiskFull,
    HostUnreachable,
    SourceMissing,
    SourceRefused,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
    StoreUnavailable,
)
from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import InvalidKey
from lens_pipeline.storage.retries import FetchCancelled, RetryPolicy, retry_transient
from lens_pipeline_tests.storage.download.fetchers import MakeFetcher
from lens_pipeline_tests.support.servers import Answer, HostileServer


def test_a_file_arrives_with_its_size_and_hash(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """The revision of a preview rests on the hash."""
    body = bytes(range(256)) * 1000
    fetched = fetcher.fetch(server.put("/a.jpg", body), into)
    assert into.read_bytes() == body
    assert fetched.bytes == len(body)
    assert fetched.sha256 == hashlib.sha256(body).hexdigest()


def test_an_object_of_the_store_is_fetched_by_its_key(
    fetcher: Fetcher, store: FileStore, into: Path
) -> None:
    """`asset_url` may be a key instead of a URL."""
    store.write("u1/a.jpg", b"stored", content_type="image/jpeg")
    assert fetcher.fetch("u1/a.jpg", into).bytes == 6
    assert into.read_bytes() == b"stored"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (None, SourceMissing),
        ("", SourceMissing),
        ("  ", SourceMissing),
        ("u1/none.jpg", SourceMissing),
        ("u1/empty.jpg", SourceUnreadable),
        ("u1/large.jpg", SourceTooLarge),
        ("../../etc/passwd", InvalidKey),
        ("/etc/passwd", InvalidKey),
        ("//evil.example/a.jpg", InvalidKey),
    ],
)
def test_a_source_that_cannot_be_used_is_named(
    fetcher: Fetcher, store: FileStore, into: Path, source: str | None, error: type[Exception]
) -> None:
    """A row with a bad source must become a dead letter with a reason, not a crash."""
    store.write("u1/empty.jpg", b"", content_type="image/jpeg")
    store.write("u1/large.jpg", bytes(1_000_001), content_type="image/jpeg")
    with pytest.raises(error):
        fetcher.fetch(source, into)
    assert not into.exists()


def test_connections_are_reused_for_the_next_file_and_by_threads(
    fetcher: Fetcher, server: HostileServer, tmp_path: Path
) -> None:
    """A TLS handshake for every file costs more than most previews."""
    url = server.put("/a", b"x" * 1000)
    with ThreadPoolExecutor(4) as threads:
        for fetched in threads.map(lambda n: fetcher.fetch(url, tmp_path / f"{n}"), range(80)):
            assert fetched.bytes == 1000
    assert server.requests["/a"] == 80
    assert server.connections <= 4


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/resets", SourceUnavailable),
        ("/garbage", SourceUnavailable),
        ("/wrong-length", SourceUnavailable),
        ("/endless-headers", SourceUnavailable),
        ("/status/500", SourceUnavailable),
        ("/status/503", SourceUnavailable),
        ("/status/429", SourceUnavailable),
        ("/status/408", SourceUnavailable),
        ("/status/404", SourceMissing),
        ("/status/410", SourceMissing),
        ("/status/400", SourceRefused),
        ("/status/401", SourceRefused),
        ("/status/403", SourceRefused),
        ("/status/206", SourceRefused),
        ("/status/304", SourceRefused),
        ("/redirect-loop", SourceRefused),
        ("/never-ends", SourceTooLarge),
        ("/gzip-bomb", SourceUnreadable),
    ],
)
def test_each_bad_answer_has_its_error_and_leaves_no_file(
    fetcher: Fetcher, server: HostileServer, into: Path, path: str, error: type[DerivativeError]
) -> None:
    """A wrong class retries what is hopeless, or gives up on what would work in a minute."""
    with pytest.raises(error) as raised:
        fetcher.fetch(server.url(path) + "?token=secret", into)
    assert type(raised.value) is error
    assert "secret" not in str(raised.value)
    assert not into.exists()


@pytest.mark.parametrize("path", ["/slow-body", "/slow-headers", "/hangs", "/endless-interim"])
def test_the_deadline_holds_however_the_bytes_trickle(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, path: str
) -> None:
    """A byte now and then resets every time-out that counts from the last byte."""
    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match="not fetched within"):
        make_fetcher(timeout_seconds=0.6).fetch(server.url(path), into)
    assert 0.5 < time.monotonic() - started < 1.5
    assert not into.exists()


def test_the_deadline_holds_when_the_name_server_hangs(
    make_fetcher: MakeFetcher, into: Path
) -> None:
    """getaddrinfo blocks for as long as it likes and can't be interrupted."""
    answer = threading.Event()

    def hanging(*_: Any, **__: Any) -> list[Any]:
        answer.wait(10)
        return []

    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match="not fetched within"):
        make_fetcher(timeout_seconds=0.4, lookup=hanging).fetch("http://slow.example/", into)
    answer.set()
    assert time.monotonic() - started < 1.5


def test_the_deadline_holds_when_the_tls_handshake_hangs(
    make_fetcher: MakeFetcher, into: Path
) -> None:
    """A handshake that never ends happens before any HTTP time-out counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        started = time.monotonic()
        with pytest.raises(SourceUnavailable):
            make_fetcher(timeout_seconds=0.4).fetch(url, into)
    assert time.monotonic() - started < 1.5


def test_a_connection_that_is_refused_and_a_name_that_does_not_resolve_are_transient(
    make_fetcher: MakeFetcher, into: Path
) -> None:
    """An outage of the provider or of DNS must not turn all its files into dead letters."""

    def answering(code: int) -> Callable[..., list[Any]]:
        def lookup(*_: Any, **__: Any) -> list[Any]:
            raise socket.gaierror(code, "no address")

        return lookup

    def error(fetcher: Fetcher, url: str) -> SourceUnavailable:
        with pytest.raises(SourceUnavailable) as raised:
            fetcher.fetch(url, into)
        return raised.value

    refused = error(make_fetcher(), "http://127.0.0.1:9/")
    no_server = error(make_fetcher(lookup=answering(socket.EAI_AGAIN)), "http://away.example/")
    assert "cannot connect" in str(refused)
    assert "does not resolve" in str(no_server)
    assert (refused.blameless, no_server.blameless) == (True, True)
    # Such a host may never have been.
    no_name = error(make_fetcher(lookup=answering(socket.EAI_NONAME)), "http://gone.example/")
    assert "does not resolve" in str(no_name)
    assert not no_name.blameless


def test_a_host_that_is_away_is_asked_for_one_file_of_a_run(
    make_fetcher: MakeFetcher, into: Path
) -> None:
    """Twenty files of a host that does not answer, each waited for in turn."""
    asked: list[str] = []

    def lookup(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    fetcher = make_fetcher(lookup=lookup)
    for name in ("a", "b"):
        with pytest.raises(HostUnreachable):
            fetcher.fetch(f"http://away.example/{name}.jpg", into)
    with pytest.raises(HostUnreachable):
        fetcher.fetch("http://other.example/", into)
    assert asked == ["away.example"] * 3 + ["other.example"] * 3


def test_the_next_address_of_a_host_is_tried_when_one_refuses(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path
) -> None:
    """Hosts with an IPv6 address that leads nowhere are common."""
    server.put("/a", b"x")

    def two(host: str, port: int, **_: Any) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.9", port)), (2, 1, 6, "", ("127.0.0.1", port))]

    fetcher = make_fetcher(allow_hosts=("127.0.0.0/8",), lookup=two)
    assert fetcher.fetch(server.url("/a", host="two.example"), into).bytes == 1


def test_the_cap_counts_what_arrives_not_what_was_announced(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path
) -> None:
    """A missing or lying Content-Length must not let more bytes through."""
    fetcher = make_fetcher(max_bytes=10)
    assert fetcher.fetch(server.put("/fits", b"x" * 10), into).bytes == 10
    with pytest.raises(SourceTooLarge):
        fetcher.fetch(server.put("/over", b"x" * 11), into)
    with pytest.raises(SourceTooLarge):
        fetcher.fetch(server.url("/never-ends"), into)
    assert not into.exists()


def test_an_empty_body_is_an_error(fetcher: Fetcher, server: HostileServer, into: Path) -> None:
    """Zero bytes would otherwise reach the decoder, whose message says nothing."""
    with pytest.raises(SourceUnreadable, match="empty"):
        fetcher.fetch(server.put("/empty", b""), into)
    assert not into.exists()


@pytest.mark.parametrize("announced", [True, False])
def test_a_disk_without_room_is_noticed_before_and_while_it_fills(
    fetcher: Fetcher,
    make_fetcher: MakeFetcher,
    server: HostileServer,
    into: Path,
    monkeypatch: pytest.MonkeyPatch,
    announced: bool,
) -> None:
    """A full scratch disk takes every other run of the machine down with it."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    fetcher = make_fetcher(max_bytes=100 * 2**20)
    url = server.put("/a", b"x" * 1000) if announced else server.url("/never-ends")
    with pytest.raises(DiskFull):
        fetcher.fetch(url, into)
    assert not into.exists()


def test_a_missing_file_is_asked_for_once_more_before_it_is_given_up_on(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """A provider's edge may not know yet what was stored a second ago."""
    url = server.put("/late", b"x")
    server.fail_first("/late", 404)
    assert fetcher.fetch(url, into).bytes == 1
    with pytest.raises(SourceMissing):
        fetcher.fetch(server.url("/never"), into)
    assert server.requests["/never"] == 2


def test_transient_failures_are_tried_again_up_to_the_limit(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """One hiccup should not wait for the backfill; an outage should not be hammered."""
    url = server.put("/hiccup", b"x")
    server.fail_first("/hiccup", 500, times=2)
    assert fetcher.fetch(url, into).bytes == 1
    with pytest.raises(SourceUnavailable):
        fetcher.fetch(server.url("/status/502"), into)
    assert server.requests["/status/502"] == 3


def test_permanent_failures_are_not_tried_again(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """Asking again for what is forbidden only gets us blocked."""
    with pytest.raises(SourceRefused):
        fetcher.fetch(server.url("/status/403"), into)
    assert server.requests["/status/403"] == 1


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.slow
@pytest.mark.parametrize("value", [lambda: "1", lambda: in_seconds(1.9)])
def test_retry_after_is_waited_for_in_both_its_forms(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, value: Callable[[], str]
) -> None:
    """Coming back earlier than asked is how a client gets blocked."""
    url = server.put("/busy", b"x")
    server.answer_first("/busy", Answer(429, headers={"Retry-After": value()}))
    started = time.monotonic()
    make_fetcher(retry=RetryPolicy(2, 0.001, 3.0)).fetch(url, into)
    assert 0.5 < time.monotonic() - started < 3.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3600", 3600), ("2", 2), ("0", 0), ("soon", None), ("-5", None), ("", None)],
)
def test_a_long_retry_after_is_reported_instead_of_slept_through(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, value: str, seconds: float | None
) -> None:
    """An hour's wait would hold a worker; asking sooner would break the server's wish."""
    server.answer_first("/busy", Answer(503, headers={"Retry-After": value}), times=3)
    with pytest.raises(SourceUnavailable) as raised:
        make_fetcher().fetch(server.url("/busy"), into)
    assert raised.value.retry_after_seconds == seconds
    assert server.requests["/busy"] == (1 if seconds else 3)


def test_any_call_can_be_retried_until_cancelled() -> None:
    """Writing to the store needs the same patience, and the same way out."""
    calls: list[int] = []
    cancelled = threading.Event()

    def fail() -> None:
        calls.append(1)
        cancelled.set()
        raise StoreUnavailable("the store is away")

    with pytest.raises(FetchCancelled):
        retry_transient(fail, RetryPolicy(), within_seconds=60, cancelled=cancelled)
    with pytest.raises(StoreUnavailable):
        retry_transient(fail, RetryPolicy(3, 0.001, 0.01), within_seconds=60)
    assert len(calls) == 1 + 3


@pytest.mark.parametrize("path", ["/status/500", "/hangs", "/slow-body"])
def test_a_cancelled_run_stops_waiting_at_once(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, path: str
) -> None:
    """A worker that sleeps through its own cancellation holds up the shutdown."""
    cancelled = threading.Event()
    fetcher = make_fetcher(
        timeout_seconds=30, retry=RetryPolicy(10, 20.0, 20.0), cancelled=cancelled
    )
    threading.Timer(0.3, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(FetchCancelled):
        fetcher.fetch(server.url(path), into)
    assert time.monotonic() - started < 2
    assert not into.exists()


def test_an_interrupt_in_the_middle_leaves_no_file(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file looks like a whole one to whoever finds it."""
    real = shutil.disk_usage
    seen: list[bool] = []

    def interrupt(path: Path) -> Any:
        if into.exists():
            seen.append(True)
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(shutil, "disk_usage", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_fetcher(max_bytes=100 * 2**20).fetch(server.url("/never-ends"), into)
    assert seen
    assert not into.exists()


def test_spaces_and_letters_of_other_scripts_in_a_path_are_quoted_and_escapes_kept(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """Hosts hand out unquoted names; quoting what is quoted already would miss the file."""
    server.put("/my%20caf%C3%A9%2F1.jpg", b"x")
    assert fetcher.fetch(server.url("/my café%2F1.jpg?a=b c#fragment"), into).bytes == 1


def test_a_redirect_to_a_relative_address_is_followed(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """Most redirects of object stores and CDNs are harmless and needed."""
    server.put("/b", b"x")
    assert fetcher.fetch(server.url("/redirect?to=/redirect?to=/b"), into).bytes == 1
