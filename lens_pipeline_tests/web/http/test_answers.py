"""What every answer has: headers for browsers, an id, a line in the log."""

import asyncio
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from lens_pipeline.core import logs
from lens_pipeline.core.logs import JsonFormatter, TextFormatter
from lens_pipeline.web.errors import ApiError
from lens_pipeline_tests.support.site import eventually
from lens_pipeline_tests.web.auth.gate_app import (
    BEARER,
    READ,
    TOKEN,
    WRITE,
    app_without_services,
    client_of,
    raw,
)

LOG = "lens_pipeline.web.http.request_log"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """An app with handlers that do what handlers should not."""
    app = app_without_services(tmp_path_factory.mktemp("guarded"), LENS_API_TOKEN=TOKEN)

    def fault(name: str) -> None:
        raise RuntimeError(f"no such {name}")

    def inject(name: str) -> None:
        raise ApiError(400, "bad", name, headers={"X-Name": name})

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.to_thread(app.state.go_on.wait, 10)
        yield b"second"

    def stream() -> StreamingResponse:
        return StreamingResponse(parts(), headers={"Cache-Control": "private, max-age=60"})

    for path, handler in (
        ("/api/test/fault/{name:path}", fault),
        ("/api/test/inject/{name:path}", inject),
        ("/api/test/stream", stream),
    ):
        app.add_api_route(path, handler, methods=["GET"])
        app.router.routes.insert(0, app.router.routes.pop())
    app.state.go_on = threading.Event()
    return app


@pytest.fixture(scope="module")
def visitor(app: FastAPI) -> Iterator[httpx.Client]:
    with client_of(app, headers=BEARER) as client:
        yield client


ANSWERS = {
    "an answer": ("GET", READ, 200),
    "a refusal": ("GET", READ, 401),
    "nothing": ("GET", "/api/none", 404),
    "a wrong method": ("DELETE", READ, 405),
    "a fault of ours": ("GET", "/api/test/fault/x", 500),
    "a redirect": ("GET", "/library", 303),
    "the login": ("GET", "/login", 200),
    "a file": ("GET", "/static/app.css", 200),
    "health": ("GET", "/health/live", 200),
}


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_every_answer_tells_browsers_what_not_to_do(
    visitor: httpx.Client, method: str, path: str, status: int
) -> None:
    without = {"Authorization": ""} if status in (401, 303) else {}
    with httpx.Client(base_url=visitor.base_url) as nobody:
        asker = nobody if without or path == "/login" else visitor
        answer = asker.request(method, path)
    assert answer.status_code == status
    headers = answer.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "script-src" not in policy and "style-src" not in policy
    for kind in ("img-src", "media-src"):
        assert set(policy[kind].split()) == {"'self'", "https:", "http:", "data:", "blob:"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-site"
    assert headers["Cache-Control"] == ("no-cache" if "/static/" in path else "no-store")
    assert "server" not in headers
    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-ID"])
    if status >= 400:
        assert answer.json()["request_id"] == headers["X-Request-ID"]


def test_a_handler_may_say_what_may_be_kept(app: FastAPI, visitor: httpx.Client) -> None:
    app.state.go_on.set()
    assert visitor.get("/api/test/stream").headers["Cache-Control"] == "private, max-age=60"


def test_streams_are_passed_on_as_they_come(app: FastAPI, visitor: httpx.Client) -> None:
    """An event feed that arrives when it ends."""
    app.state.go_on.clear()
    with visitor.stream("GET", "/api/test/stream") as answer:
        parts = answer.iter_raw()
        assert next(parts) == b"first"
        app.state.go_on.set()
        assert b"".join(parts) == b"second"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_not_sent_as_json(visitor: httpx.Client, kind: str) -> None:
    """Valid JSON that was called no dictionary, as `curl -d` says that it is a form."""
    body = b'{"paths": ["/api/generations/p1/preview"]}'
    answer = visitor.post(WRITE, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")
    assert "application/json" in answer.json()["message"]


def test_json_that_cannot_be_read(visitor: httpx.Client) -> None:
    """Without a code that says what to mend."""
    for body in (b"{", b"[" * 50_000, b'{"seconds": %s}' % (b"9" * 5000), b"\xff"):
        json_type = {"Content-Type": "application/json"}
        answer = visitor.post(WRITE, content=body, headers=json_type)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_a_fault_costs_no_connection(visitor: httpx.Client) -> None:
    """Every client that reuses its connection, and is cut off in its next request."""
    request = b"GET /api/test/fault/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"
    twice = (request + b"\r\n" + request + b"Connection: close\r\n\r\n") % ((TOKEN.encode(),) * 2)
    answer = raw(visitor, twice)
    assert answer.count(b"HTTP/1.1 500 ") == 2


@pytest.mark.parametrize("given", ["a", "A-b_9", "x" * 64])
def test_the_clients_id_is_taken(visitor: httpx.Client, given: str) -> None:
    answer = visitor.get("/api/none", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a;b", "<b>", "a\tb", "..", "é", "{}"])
def test_a_strange_id_is_not(visitor: httpx.Client, given: str) -> None:
    headers = {b"X-Request-ID": given.encode()}
    answer = visitor.get("/api/none", headers=headers)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_two_ids_are_none(visitor: httpx.Client) -> None:
    answer = visitor.get("/api/none", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_no_name_becomes_a_header(visitor: httpx.Client) -> None:
    """A cookie set by the name of a video."""
    answer = visitor.get("/api/test/inject/a%0d%0aSet-Cookie:%20a=b")
    assert "set-cookie" not in answer.headers
    assert answer.status_code >= 400


def _lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == LOG]


def test_one_line_a_request(
    app: FastAPI, visitor: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", LOG)
    app.state.go_on.set()
    asked = (READ, "/api/none", "/api/test/fault/x", "/login?next=/secret&token=secret")
    answers = [visitor.get(path, headers={"X-Request-ID": "this"}) for path in asked]
    assert visitor.get("/api/test/stream").content == b"firstsecond"
    eventually(lambda: len(_lines(caplog)) == 5, 5, "the log")
    lines = [getattr(record, logs.FIELDS) for record in _lines(caplog)]
    for answer, line in zip(answers, lines, strict=False):
        assert line["method"] == "GET"
        assert line["path"] == answer.url.path
        assert line["status"] == answer.status_code
        assert line["bytes"] == len(answer.content)
        assert 0 <= line["milliseconds"] < 10_000
    assert lines[-1]["bytes"] == len(b"firstsecond")
    written = " ".join(JsonFormatter().format(record) for record in _lines(caplog))
    assert "secret" not in written and TOKEN not in written


def test_a_client_that_went_away_is_in_the_log(
    visitor: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", LOG)
    head = f"POST {WRITE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    with pytest.raises(TimeoutError):
        raw(visitor, f"{head}Content-Length: 9\r\n\r\n".encode(), seconds=0.3)
    eventually(lambda: _lines(caplog), 5, "the log")
    assert getattr(_lines(caplog)[0], logs.FIELDS)["status"] == 499


def _formatted(
    formatter: logging.Formatter, message: str, error: BaseException | None = None
) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("some.logger", 20, __file__, 1, "%s", (message,), info)
    return formatter.format(record)


def _raise(message: str) -> None:
    raise ValueError(message)


NASTY = "a\r\n2026-01-01 00:00:00,000 INFO root: forged\x1b[2J\x00\x85\u2028b\rc"


def test_no_text_passes_for_another_line() -> None:
    """A log in which a stranger writes what we seem to have done."""
    with pytest.raises(ValueError, match="forged") as raised:
        _raise(NASTY)
    text = _formatted(TextFormatter(), NASTY, raised.value)
    entry = _formatted(JsonFormatter(), NASTY, raised.value)
    first, *rest = text.split("\n")
    assert re.match(r"\d{4}-\d\d-\d\d .* INFO some.logger: a", first)
    assert rest and all(line.startswith("    ") for line in rest)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    assert "\n" not in entry and json.loads(entry)["message"] == NASTY


def test_paths_cannot_forge_lines(visitor: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    visitor.get("/api/test/fault/x%0a2026-01-01%20INFO%20forged%1b%5b2J")
    raw(visitor, b"GET /api/\x1b[2J\xff HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: _lines(caplog), 5, "the log")
    for formatter in (TextFormatter(), JsonFormatter()):
        for record in caplog.records:
            shown = formatter.format(record)
            assert "\x1b" not in shown
            assert not re.search("^2026-01-01 INFO forged", shown, re.MULTILINE)
    assert getattr(_lines(caplog)[0], logs.FIELDS)["path"].endswith("%1b%5b2J")


def test_what_is_logged_meanwhile_has_the_id(
    visitor: httpx.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody can connect with the request that somebody complains about."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    try:
        for log_format in ("json", "text"):
            logs.configure(log_format, "info")
            visitor.get("/api/test/fault/x", headers={"X-Request-ID": "this-one"})
            eventually(lambda: root.handlers[0].flush() is None, 1)
    finally:
        root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    # The client's own lines would hold whole addresses.
    assert not [entry for entry in entries if entry["logger"].startswith("http")]
    about = [e for e in entries if e["logger"].startswith("lens_pipeline.web")]
    assert {entry["logger"] for entry in about} == {"lens_pipeline.web.errors", LOG}
    assert {entry["request_id"] for entry in about} == {"this-one"}
    (access,) = [entry for entry in about if entry["logger"] == LOG]
    assert (access["method"], access["path"], access["status"]) == ("GET", "/api/test/fault/x", 500)
    assert access["bytes"] > 0 and access["milliseconds"] > 0
    text = [line for line in lines if not line.startswith(("{", " "))]
    assert any(line.endswith("failed [this-one]") for line in text), text
    # One traceback each.
    assert len([line for line in text if "ERROR" in line]) == 1
    assert any(
        re.search(r"GET /api/test/fault/x 500 \d+ B .* \[this-one\]$", line) for line in text
    )
