"""The app with its access control and nothing behind it: no database, no store."""

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx2 as httpx
from fastapi import FastAPI

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.settings import load
from lens_pipeline.web.app import create_app
from lens_pipeline.web.auth.access import Access, Limits
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.web import served

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
# What any caller may read, without a database.
READ = "/api/openapi.json"
# What any caller may do, without a database.
WRITE, WRITTEN = "/api/links", {"paths": ["/api/generations/p1/preview"]}

_NOWHERE = "postgresql://nobody@127.0.0.1:9/none"


@functools.cache
def _instance() -> dg.DagsterInstance:
    """Never asked; kept, as SQLite wants to be closed where it was opened."""
    return dg.DagsterInstance.ephemeral()


def app_without_services(home: Path, limits: Limits | None = None, **variables: str) -> FastAPI:
    """The app by these settings."""
    settings = load({"LENS_HOME": str(home), **variables}, dotenv=None)[0]
    pipeline = connect(settings, Endpoints(_NOWHERE, _NOWHERE, "", ""))
    return create_app(Context(pipeline, RunQueue(pipeline, _instance())), limits)


def access(app: FastAPI) -> Access:
    return app.state.access


@contextmanager
def client_of(app: FastAPI, **options: object) -> Iterator[httpx.Client]:
    """Somebody who asks the app."""
    with served(app) as url, httpx.Client(base_url=url, timeout=20, **options) as client:  # pyright: ignore[reportArgumentType]
        yield client


def token_of(app: FastAPI, caller: Caller) -> str:
    tokens = access(app).tokens
    assert tokens is not None
    return tokens.scoped(caller, None)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def origin(client: httpx.Client) -> dict[str, str]:
    """What a browser adds for a page of ours."""
    return {"Origin": str(client.base_url).rstrip("/")}


def raw(client: httpx.Client, *parts: bytes | float, seconds: float = 10) -> bytes:
    """Send exactly this; everything that comes back until the connection is closed.

    A number is a pause in seconds.
    """
    url = client.base_url
    assert url.port is not None
    with contextlib.closing(socket.create_connection((url.host, url.port), timeout=seconds)) as end:
        # Sent aside: an answer may come before all is sent.
        sender = threading.Thread(target=_send, args=(end, parts))
        sender.start()
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while received := end.recv(65536):
                answer += received
        sender.join()
    return answer


def _send(end: socket.socket, parts: tuple[bytes | float, ...]) -> None:
    with contextlib.suppress(ConnectionError):
        for part in parts:
            if isinstance(part, bytes):
                end.sendall(part)
            else:
                time.sleep(part)
