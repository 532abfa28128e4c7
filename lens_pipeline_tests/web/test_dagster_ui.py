"""What the UI's server refuses; whoever may start a run there may run code."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from lens_pipeline.core.ports import free_port
from lens_pipeline.engine.instance import dagster_instance
from lens_pipeline.engine.processes import webserver
from lens_pipeline.settings import Settings, load
from lens_pipeline.supervisor.up import programs
from lens_pipeline.web.auth.access import Access, Limits, access_of
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.auth.origin import allowed_hosts
from lens_pipeline.web.auth.tokens import Pass
from lens_pipeline.web.dagster_ui import QueryGuard, SameOriginOnly, TokenRequired, guarded
from lens_pipeline.web.http.http1 import BoundedProtocol
from lens_pipeline_tests.support.site import Site, eventually

JSON = {"content-type": "application/json; charset=utf-8"}


async def answer(_: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("done")
    await websocket.close()


@contextmanager
def serving(
    bind: str = "127.0.0.1", named: tuple[str, ...] = (), access: Access | None = None
) -> Iterator[str]:
    """A guarded application, as if bound to `bind`; where it really is."""
    app: ASGIApp = Starlette(
        routes=[
            Route("/graphql", answer, methods=["GET", "POST"]),
            Route("/", answer),
            Route("/server_info", answer),
            Route("/report_asset_materialization/{key:path}", answer, methods=["POST"]),
            WebSocketRoute("/graphql", talk),
        ]
    )
    app = QueryGuard(app)
    if access and access.tokens:
        app = TokenRequired(app, access.tokens, access.wrong_tokens)
    guarded = SameOriginOnly(app, allowed_hosts(bind, named), frozenset(named))
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(guarded, port=port, http=BoundedProtocol, log_level="warning")
    )
    thread = Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, 10)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


def ask(address: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Status and text of the answer."""
    with closing(HTTPConnection(address, timeout=10)) as connection:
        here = {name: value.replace("HERE", address) for name, value in headers.items()}
        connection.request(method, path, "{}" if method == "POST" else None, here)
        response = connection.getresponse()
        return response.status, response.read().decode()


OURS = {
    "a page": ("GET", "/", {}),
    "a page by its address": ("GET", "/", {"host": "127.0.0.1:3000"}),
    "a page by its IPv6 address": ("GET", "/", {"host": "[::1]:3000"}),
    "a tunnel to another port": ("GET", "/", {"host": "localhost:8080"}),
    "the UI": ("POST", "/graphql", {**JSON, "origin": "http://HERE"}),
    "a script": ("POST", "/graphql", JSON),
    "the playground": ("GET", "/graphql", {}),
}


@pytest.mark.parametrize(("method", "path", "headers"), OURS.values(), ids=OURS.keys())
def test_people_and_scripts_are_served(
    address: str, method: str, path: str, headers: dict[str, str]
) -> None:
    """A UI that its own people cannot use."""
    assert ask(address, method, path, headers) == (200, "done")


THEIRS = {
    "an image's address": ("GET", "/graphql?query=mutation%7Bx%7D", {}),
    "a form": ("POST", "/graphql?query=x", {"content-type": "application/x-www-form-urlencoded"}),
    "a form as text": ("POST", "/graphql", {"content-type": "text/plain"}),
    "a form without a type": ("POST", "/graphql?query=x", {}),
    "a script elsewhere": ("POST", "/graphql", {**JSON, "origin": "https://evil.example"}),
    "a script on another port": ("POST", "/graphql", {**JSON, "origin": "http://localhost:9"}),
    "a page in a file": ("POST", "/graphql", {**JSON, "origin": "null"}),
    "a name that means us": ("GET", "/", {"host": "evil.example:3000"}),
    "a name that begins like us": ("GET", "/", {"host": "localhost.evil.example"}),
    "a user in front": ("GET", "/", {"host": "localhost@evil.example"}),
    "a broken host": ("GET", "/", {"host": "[::1"}),
}


@pytest.mark.parametrize(("method", "path", "headers"), THEIRS.values(), ids=THEIRS.keys())
def test_pages_of_other_sites_are_refused(
    address: str, method: str, path: str, headers: dict[str, str]
) -> None:
    """A page that starts runs through the browser of somebody who only looks at it."""
    status, text = ask(address, method, path, headers)
    assert status == 403
    assert text.startswith("refused: ")


def test_a_subscription_of_another_site_is_refused(address: str) -> None:
    """A page that reads all runs' logs."""
    with connect(f"ws://{address}/graphql") as websocket:
        assert websocket.recv() == "done"
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{address}/graphql", origin=Origin("https://evil.example"))


PROXIED = {**JSON, "origin": "https://lens.example"}


@pytest.mark.parametrize("host", ["lens.example", "HERE"])
def test_a_proxy_may_show_the_pages_under_a_name_of_ours(address: str, host: str) -> None:
    """A UI behind a proxy, which sends on the name it was asked for or does not."""
    headers = {**PROXIED, "host": host}
    with serving(named=("lens.example",)) as proxied:
        assert ask(proxied, "POST", "/graphql", headers)[0] == 200
    assert ask(address, "POST", "/graphql", headers)[0] == 403


def test_beyond_loopback_any_name_is_ours_unless_they_are_listed() -> None:
    """A UI that only answers to a name that nobody gave it."""
    with serving("0.0.0.0") as bound:
        assert ask(bound, "GET", "/", {"host": "lens.example"})[0] == 200
    with serving("0.0.0.0", ("ui.example",)) as listed:
        assert ask(listed, "GET", "/", {"host": "lens.example"})[0] == 403


TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def access() -> Access:
    return access_of(Settings(api_token=TOKEN), Limits(wrong_tokens_a_minute=30))


@pytest.fixture(scope="module")
def closed(access: Access) -> Iterator[str]:
    """Where LENS_API_TOKEN is set."""
    with serving(access=access) as address:
        yield address


def _cookie(access: Access, caller: Caller) -> dict[str, str]:
    assert access.tokens is not None
    return {"cookie": f"lens_session={access.tokens.session(Pass(caller), 60)[0]}"}


def _password(token: str) -> dict[str, str]:
    return {"authorization": f"Basic {b64encode(f'me:{token}'.encode()).decode()}"}


def test_whoever_may_see_everything_may_use_the_ui(closed: str, access: Access) -> None:
    for headers in (
        {"authorization": f"Bearer {TOKEN}"},
        _password(TOKEN),
        _cookie(access, Caller()),
    ):
        assert ask(closed, "POST", "/graphql", {**JSON, **headers}) == (200, "done")
        with connect(f"ws://{closed}/graphql", additional_headers=headers) as socket:
            assert socket.recv() == "done"
    # For those who start the server and wait for it.
    assert ask(closed, "GET", "/server_info", {})[0] == 200


def test_nobody_else_may_use_the_ui(closed: str, access: Access) -> None:
    """Whoever reaches the port of a UI without a login may run code."""
    assert access.tokens is not None
    scoped = access.tokens.scoped(Caller(user_id="u1"), None)
    for headers in (
        {},
        {"authorization": f"Bearer {scoped}"},
        {"authorization": "Basic !"},
        {"authorization": "Basic"},
        _password(scoped),
        _password("wrong"),
        _cookie(access, Caller(user_id="u1")),
        {"cookie": "lens_session=forged"},
    ):
        for path in ("/", "/graphql"):
            status, text = ask(closed, "GET", path, headers)
            assert (status, "LENS_API_TOKEN" in text) == (401, True), headers
        with pytest.raises(InvalidStatus):
            connect(f"ws://{closed}/graphql", additional_headers=headers)


@pytest.mark.parametrize("asset", ["server_info", "preview/server_info", "x%2Fserver_info"])
def test_an_asset_that_is_named_as_what_is_open_is_not(closed: str, asset: str) -> None:
    """Such a path let whoever reached the port write to the event log."""
    assert ask(closed, "POST", f"/report_asset_materialization/{asset}", JSON)[0] == 401


def test_tokens_cannot_be_guessed_for_long(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by somebody who says to be another each time, as a proxy may."""
    (web,) = (one for one in programs(Settings(home=tmp_path), tmp_path) if one.name == "web")
    for name, value in web.environment.items():
        monkeypatch.setenv(name, value)
    with serving(access=access) as address:
        answers = [
            ask(address, "GET", "/", _password(f"guess-{n}") | {"x-forwarded-for": f"10.0.{n}.1"})
            for n in range(40)
        ]
        assert {status for status, _ in answers} == {401, 429}
        assert answers[-1][0] == 429
        assert ask(address, "GET", "/", _password(TOKEN))[0] == 200


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b'{"query": "{ version }"}', 200),
        ("application/json", b'{"query": "' + b"{a" * 90 + b'"}', 200),
        ("application/json", b'{"query": "{ a(x: \\"' + b"{" * 5_000 + b'\\") }"}', 200),
        ("application/json", b"[" * 5_000, 400),
        ("application/json", b'{"x": ' + b'["]",' * 500 + b"1" + b"]" * 500 + b"}", 400),
        ("application/json", b'{"query": "' + b"{a" * 5_000 + b'"}', 400),
        ("application/json", b'{"query": "' + b'{a(x:\\"}\\")' * 500 + b'"}', 400),
        ("application/json", b'{"query": "' + b"{a #}\\n" * 500 + b'"}', 400),
        ("application/json", ('{"query": "' + "{a" * 500 + '"}').encode("utf-16"), 400),
        ("application/json", b'[{"query": "{ version }"}]', 400),
        ("application/json", b"\xff", 400),
        ("application/graphql", b"{ version }", 200),
        ("application/graphql", b"{a" * 5_000, 400),
        ("application/graphql", b'{a(x:"""}\\"""}""")' * 500, 400),
        ("application/graphql", b'\\"""\n' * 10_000, 200),
        ("application/json", b'"' + b"x" * 70_000 + b'"', 413),
    ],
    ids=[
        *("one", "deep", "deep text in a query", "deep JSON", "JSON with brackets in texts"),
        *("deep query", "brackets in texts", "brackets in comments", "UTF-16"),
        *("batch", "binary", "text", "deep text", "long texts", "many texts left open", "large"),
    ],
)
def test_queries_that_dagster_cannot_read(
    address: str, kind: str, body: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback for each in the log, from whoever reaches the port."""
    monkeypatch.setattr("lens_pipeline.web.dagster_ui._BODY_BYTES", 60_000)
    with closing(HTTPConnection(address)) as connection:
        connection.request("POST", "/graphql", body, {"content-type": kind})
        assert connection.getresponse().status == status


def test_a_client_that_leaves_during_a_refusal() -> None:
    """A traceback in the log for a client that went away."""
    messages: list[Message] = [
        {"type": "http.request", "body": b"[", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_: Message) -> None:
        pass

    headers = [(b"content-type", b"application/json"), (b"content-length", b"99999999")]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": headers}
    asyncio.run(QueryGuard(Starlette())(scope, receive, send))
    assert messages == []


@pytest.mark.parametrize("token", [None, TOKEN])
def test_what_is_served_is_guarded(
    site: Site, tmp_path: Path, environment: pytest.MonkeyPatch, token: str | None
) -> None:
    """Guards that stand before nothing."""
    if token is not None:
        environment.setenv("LENS_API_TOKEN", token)
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from: []")
    served: list[ASGIApp] = []
    protocols: list[object] = []

    def run(app: ASGIApp, **options: object) -> None:
        served.append(app)
        protocols.append(options["http"])

    environment.setattr(uvicorn, "run", run)
    environment.setattr("sys.argv", ["web", "-h", "127.0.0.1", "-p", "1", "-w", str(workspace)])
    with dagster_instance(load()[0]):
        webserver.serve(guarded, BoundedProtocol)
    (app,) = served
    assert protocols == [BoundedProtocol]
    assert isinstance(app, SameOriginOnly)
    assert isinstance(app._app, TokenRequired) is (token is not None)
    within = app._app._app if isinstance(app._app, TokenRequired) else app._app
    assert isinstance(within, QueryGuard)
