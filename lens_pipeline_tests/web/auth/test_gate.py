"""What a request meets before anything of it is served: hosts, origins, sizes, time."""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from lens_pipeline.web.auth.access import Limits
from lens_pipeline.web.http import http1
from lens_pipeline_tests.providers.provider_server import WEBHOOK_KEY
from lens_pipeline_tests.support.site import eventually, lens
from lens_pipeline_tests.web.auth.gate_app import (
    BEARER,
    READ,
    TOKEN,
    WRITE,
    WRITTEN,
    app_without_services,
    client_of,
    origin,
    raw,
)
from lens_pipeline_tests.web.routes import signatures

BODY = json.dumps(WRITTEN).encode()
JSON = {"Content-Type": "application/json"}
POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % WRITE.encode()
LIVE = b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LIMITS = Limits(body_bytes=64 * 1024, body_seconds=1.0, forged_webhooks_a_minute=5)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return app_without_services(tmp_path_factory.mktemp("open"), LIMITS)


@pytest.fixture(scope="module")
def visitor(app: FastAPI) -> Iterator[httpx.Client]:
    with client_of(app) as client:
        yield client


def _refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.evil.example",
        "[::1",
        "",
        "0.0.0.0",
    ],
)
def test_a_name_that_was_given_our_address(visitor: httpx.Client, host: str) -> None:
    """A page that gives its own name our address, and then is of our origin (DNS rebinding)."""
    for method, path in (("GET", READ), ("POST", WRITE), ("GET", "/login"), ("GET", "/metrics")):
        headers = {"Host": host, "Origin": f"http://{host}"}
        _refused(visitor.request(method, path, headers=headers), 403, "foreign_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_ours(visitor: httpx.Client, host: str) -> None:
    assert visitor.get(READ, headers={"Host": host}).status_code == 200


def test_load_balancers_ask_by_address(visitor: httpx.Client) -> None:
    assert visitor.get("/api/health/live", headers={"Host": "10.1.2.3"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_pages_of_other_sites_change_nothing(
    visitor: httpx.Client, headers: dict[str, str]
) -> None:
    """An open app on loopback, used by any page its owner looks at."""
    _refused(visitor.post(WRITE, json=WRITTEN, headers=headers), 403, "foreign_origin")
    _refused(visitor.delete("/api/generations/p1", headers=headers), 403, "foreign_origin")


def test_pages_of_other_sites_embed_nothing_but_may_link(visitor: httpx.Client) -> None:
    site = {"Sec-Fetch-Site": "cross-site"}
    embedded = visitor.get(READ, headers={**site, "Sec-Fetch-Mode": "no-cors"})
    _refused(embedded, 403, "foreign_origin")
    assert visitor.get(READ, headers={**site, "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_pages_and_scripts_of_ours(visitor: httpx.Client) -> None:
    ours = {**origin(visitor), "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    for headers in (ours, {}):
        assert visitor.post(WRITE, json=WRITTEN, headers=headers).status_code == 200
        assert visitor.get(READ, headers=headers).status_code == 200


def test_behind_a_proxy_with_a_name(tmp_path: Path) -> None:
    app = app_without_services(tmp_path, LENS_ALLOWED_HOSTS="lens.example", LENS_API_TOKEN=TOKEN)
    with client_of(app) as visitor:
        for host in ("lens.example", visitor.base_url.netloc.decode()):
            headers = {**BEARER, "Host": host, "Origin": "https://lens.example"}
            assert visitor.post(WRITE, json=WRITTEN, headers=headers).status_code == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            answer = visitor.post(WRITE, json=WRITTEN, headers={**BEARER, **headers})
            assert answer.status_code == 403


def test_a_long_address(visitor: httpx.Client) -> None:
    assert visitor.get(f"{READ}?x={'a' * 8000}").status_code == 200
    _refused(visitor.get(f"{READ}?x={'a' * 8200}"), 414, "address_too_long")
    _refused(visitor.get(f"/{'a' * 8200}"), 414, "address_too_long")


@pytest.mark.parametrize("size", [LIMITS.body_bytes + 1, 1_000_000, 20_000_000])
def test_a_body_that_is_too_large(visitor: httpx.Client, size: int) -> None:
    """Memory that anybody can take, by a length that is told or by one that is not."""
    told = raw(visitor, POST + b"Content-Length: %d\r\n\r\n" % size, b"x" * size)
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    chunks = [chunk] * (size // 4096 + 1) + [b"0\r\n\r\n"]
    untold = raw(visitor, POST + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
    for answer in (told, untold):
        # Of what nobody reads to its end the answer may be lost; never is it a success.
        if answer or size < 8_000_000:
            assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
            assert b"\r\nconnection: close\r\n" in answer.lower()
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "too_large"


def test_a_body_that_is_just_small_enough(visitor: httpx.Client) -> None:
    body = BODY.ljust(LIMITS.body_bytes)
    assert visitor.post(WRITE, content=body, headers=JSON).status_code == 200
    parts = iter([body[:9], body[9:]])
    assert visitor.post(WRITE, content=parts, headers=JSON).status_code == 200


def test_a_client_may_ask_first_whether_to_send(visitor: httpx.Client) -> None:
    """A body sent in vain, or one that is waited for by both sides."""
    head = POST + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: "
    answer = raw(visitor, head + b"%d\r\n\r\n" % len(BODY), 0.2, BODY)
    assert answer.startswith(b"HTTP/1.1 100 ") and b"HTTP/1.1 200 " in answer


def test_a_client_that_asks_first_need_not_send_what_nobody_wants(visitor: httpx.Client) -> None:
    """A gigabyte sent for one line of refusal."""
    begun = time.monotonic()
    waits = POST + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n"
    for head in (waits, waits.replace(b"localhost", b"evil.example")):
        answer = raw(visitor, head + b"\r\n")
        assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 403 "))
        assert answer.count(b"HTTP/1.1 ") == 1
    assert time.monotonic() - begun < 2


def test_a_slow_body(visitor: httpx.Client) -> None:
    """A thousand connections, each of which holds a request for an hour."""
    begun = time.monotonic()
    answer = raw(visitor, POST + b"Content-Length: 1000\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"too_slow"' in answer
    assert LIMITS.body_seconds <= time.monotonic() - begun < LIMITS.body_seconds + 3


@pytest.mark.slow
def test_a_slow_head(visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, one step earlier (Slowloris)."""
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.3)
    whole = b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    parts = ((b"",), (b"GET /api/health/live HT",), (whole[:-2],), (whole, 0.3, b"GET / HT"))
    for sent in parts:
        begun = time.monotonic()
        answer = raw(visitor, *sent)
        assert time.monotonic() - begun < 4
        assert answer.count(b"HTTP/1.1 ") == (1 if whole in sent else 0)


def test_a_connection_that_is_used_well_is_kept(
    visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patience for heads applied to what follows one."""
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.3)
    head = POST + b"Content-Length: %d\r\n" % len(BODY)
    whole = head + b"\r\n" + BODY
    # A body that takes its time, a rest, and several requests at once.
    slow = (head + b"\r\n" + BODY[:5], 0.6, BODY[5:], 0.6)
    answer = raw(visitor, *slow, whole * 3, head + b"Connection: close\r\n\r\n" + BODY)
    assert answer.count(b"HTTP/1.1 200 ") == 5


def test_a_head_without_end(visitor: httpx.Client) -> None:
    """Memory that anybody can take, before there is a request."""
    begun = time.monotonic()
    line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
    answer = raw(visitor, b"GET / HTTP/1.1\r\nHost: localhost\r\n", *([line] * 200))
    # With what was still on its way, the answer may be lost.
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")
    assert time.monotonic() - begun < http1.HEAD_SECONDS / 2


@pytest.mark.slow
def test_an_answer_that_nobody_takes(
    visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of connections, each of which waits for ever for its client to read."""
    monkeypatch.setattr(http1, "STALL_SECONDS", 0.5)
    asked = 200
    with socket.socket() as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.settimeout(10)
        end.connect((visitor.base_url.host, visitor.base_url.port))
        end.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % READ.encode() * asked)
        time.sleep(3)
        taken = b""
        with contextlib.suppress(ConnectionResetError):
            while received := end.recv(65536):
                taken += received
    assert 0 < taken.count(b"HTTP/1.1 200 ") < asked


@pytest.mark.slow
def test_as_many_connections_as_the_system_allows() -> None:
    """A thousand browsers with a page open, and with the shell's limit nobody else was served."""
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, 512));"
        "from lens_pipeline.web.http.http1 import raise_connection_limit as grow; grow();"
        "print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "512 512\n"


def test_clients_beyond_the_limit_are_told_so(
    visitor: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unfinished requests until no file can be opened, at which one of our servers ended."""
    monkeypatch.setattr(http1, "MOST_CONNECTIONS", 4)
    address = (visitor.base_url.host, visitor.base_url.port)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            end = stack.enter_context(socket.create_connection(address, 10))
            end.sendall(b"GET / HTTP/1.1\r\n")
        refused = raw(visitor, b"")
        assert refused.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in refused
    eventually(lambda: raw(visitor, LIVE).startswith(b"HTTP/1.1 200 "), 5, "room again")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost@evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://localhost:81/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_two_hosts(visitor: httpx.Client, head: bytes) -> None:
    """Of which a proxy looked at the other one."""
    assert raw(visitor, head).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"localhost", b"LOCALHOST"),
        (b"localhost:80", b"localhost"),
        (b"localhost", b"localhost:80"),
    ],
)
def test_an_absolute_address_of_the_same_host(
    visitor: httpx.Client, target: bytes, host: bytes
) -> None:
    """What clients of proxies send."""
    head = b"GET http://%s/api/health/live HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
    assert raw(visitor, head % (target, host)).startswith(b"HTTP/1.1 200 ")


def test_a_question_about_the_server_itself_names_one_host(visitor: httpx.Client) -> None:
    """What load balancers ask, refused as malformed."""
    head = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert b"malformed_request" not in raw(visitor, head)


@pytest.mark.slow
def test_a_client_that_goes_with_requests_under_way(
    visitor: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Each was a fault of ours, with two tracebacks in the log, from whoever reached the port."""
    for _ in range(10):
        with socket.socket() as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            end.connect((visitor.base_url.host, visitor.base_url.port))
            end.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % READ.encode() * 200)
            # Some of it is answered, and none is taken.
            time.sleep(0.1)
    time.sleep(0.5)
    assert [one.message for one in caplog.records if one.levelno >= logging.ERROR] == []


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "begun",
    [
        # Behind the body, in one of its parts, and during an answer that has no end.
        CHUNKED + b"0\r\n",
        CHUNKED + b"0\r\nX-Filler: ",
        CHUNKED + b"1;",
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\n",
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX-Filler: ",
    ],
    ids=["trailers", "one trailer", "extension", "next head", "next header"],
)
def test_fields_without_end_where_none_are_expected(visitor: httpx.Client, begun: bytes) -> None:
    """60 MB of them took a gigabyte, from whoever reached the port."""
    line = b"X-Filler: " + b"x" * 1000 + b"\r\n"
    filler = line if begun.endswith(b"\r\n") else b"x" * 1000
    started = time.monotonic()
    # Less than ten seconds: the connection was closed, rather than we were tired of it.
    answer = raw(visitor, begun, 0.1, *([filler] * 3000))
    # Nor did the body take too long.
    assert b"HTTP/1.1 4" not in answer and time.monotonic() - started < 8


def test_trailers_are_no_headers(visitor: httpx.Client) -> None:
    """What a proxy looked at in the head, and did not find there."""
    foreign = b"0\r\nOrigin: http://evil.example\r\n\r\n"
    body = b"%x\r\n%s\r\n" % (len(BODY), BODY)
    answer = raw(
        visitor, CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body + foreign
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_two_lengths(visitor: httpx.Client) -> None:
    """A request within a request that only one of two servers sees (smuggling)."""
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for lengths in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ):
        answer = raw(visitor, POST + lengths + smuggled)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        POST + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
    ids=["method", "address", "TLS", "body"],
)
def test_what_is_no_request_is_told_so_like_all_else(
    visitor: httpx.Client, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    """A word of text that no client's handling of errors could read, and nothing in the log."""
    with caplog.at_level(logging.INFO, http1.logger.name):
        head, _, body = raw(visitor, sent).partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 400 ") and problem["error"] == "malformed_request"
    assert problem["request_id"].encode() in head
    assert [one.message for one in caplog.records if one.name == http1.logger.name] == [
        "400 malformed_request"
    ]


def test_nothing_is_said_in_the_middle_of_an_answer(visitor: httpx.Client) -> None:
    """A second answer among the bytes of the first, for a cache to keep."""
    stream = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    url = visitor.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=10) as end:
        end.sendall(stream)
        answer = end.recv(65536)
        end.sendall(b"nonsense\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while received := end.recv(65536):
                answer += received
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1 ") == 1


def test_what_is_left_of_a_refused_body_is_no_request(visitor: httpx.Client) -> None:
    """A request hidden in the body of one that was refused."""
    hidden = b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = raw(
        visitor,
        b"POST %s HTTP/1.1\r\nHost: evil.example\r\nContent-Length: %d\r\n\r\n%s"
        % (WRITE.encode(), len(hidden), hidden),
    )
    assert answer.startswith(b"HTTP/1.1 403 ") and answer.count(b"HTTP/1.1 ") == 1


def test_forged_webhooks_are_limited_and_genuine_ones_are_not(tmp_path: Path) -> None:
    """Anyone behind the provider's address who keeps its webhooks out."""
    keys = {"LENS_KIE_API_KEY": "key", "LENS_KIE_WEBHOOK_KEY": WEBHOOK_KEY}
    path, body = "/api/kie/webhook", {"taskId": "task-1"}
    with client_of(app_without_services(tmp_path, LIMITS, **keys)) as visitor:
        forged = [visitor.post(path, json=body).status_code for _ in range(5)]
        assert forged == [401] * 5
        one_more = visitor.post(path, json={})
        _refused(one_more, 429, "too_many_requests")
        assert 1 <= int(one_more.headers["Retry-After"]) <= 120
        assert visitor.get(READ).status_code == 200
        for _ in range(7):
            # It is believed; there is no database here.
            genuine = visitor.post(path, json=body, headers=signatures.headers("task-1"))
            _refused(genuine, 503, "database_unavailable")


def test_websockets_are_refused(app: FastAPI, visitor: httpx.Client) -> None:
    """A second way in that asks for no token."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    assert visitor.get("/api/events2", headers=upgrade).status_code == 404
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "192.0.2.1"])
def test_up_does_not_open_itself_to_others_by_accident(
    environment: pytest.MonkeyPatch, tmp_path: Path, bind: str
) -> None:
    """Everything everybody made, on the network because of one variable."""
    home = tmp_path / "home"
    environment.setenv("LENS_HOME", str(home))
    environment.setenv("LENS_BIND", bind)
    refused = lens("up")
    assert (refused.code, refused.out) == (2, "")
    (line,) = refused.err.splitlines()
    assert "LENS_BIND" in line and "LENS_API_TOKEN" in line
    assert not home.exists()
