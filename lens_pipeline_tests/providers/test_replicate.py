"""Replicate: predictions as its API and its webhooks give them."""

import asyncio
import base64
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook as Scheme

from lens_pipeline import settings
from lens_pipeline.providers.models import (
    Notice,
    ProviderInvalid,
    Task,
    TaskState,
    UnknownTask,
    Webhook,
    WebhookRefused,
)
from lens_pipeline.providers.replicate import Replicate
from lens_pipeline_tests.providers.json_server import JsonServer

ID = "ufawqhfynnddngldkgtslldrkq"
URL = "https://replicate.delivery/pbxt/1/out-0.png"
OTHER = "https://replicate.delivery/pbxt/1/out-1.png"
KEY = "whsec_" + base64.b64encode(b"a key of tests, of enough bytes").decode()


@pytest.fixture
def server() -> Iterator[JsonServer]:
    with JsonServer("Bearer r8_of_tests") as started:
        yield started


def client(server: JsonServer, key: str = "r8_of_tests") -> Replicate:
    values = {
        "LENS_REPLICATE_API": server.url(""),
        "LENS_REPLICATE_API_KEY": key,
        "LENS_REPLICATE_WEBHOOK_KEY": KEY,
    }
    loaded, _ = settings.load(values, dotenv=None)
    return Replicate(loaded)


def prediction(status: str, output: Any = None, error: str | None = None) -> dict[str, Any]:
    return {"id": ID, "status": status, "output": output, "error": error, "logs": ""}


def ask(server: JsonServer, answer: dict[str, Any], status: int = 200) -> Task:
    server.answers[f"/v1/predictions/{ID}"] = (status, answer)
    return asyncio.run(client(server).task(ID))


def test_each_state(server: JsonServer) -> None:
    done = Task(ID, TaskState.SUCCESS, (URL,))
    assert ask(server, prediction("starting")) == Task(ID, TaskState.WAITING)
    assert ask(server, prediction("processing", [URL])) == Task(ID, TaskState.GENERATING)
    for output in (URL, [URL], {"video": URL}):
        assert ask(server, prediction("succeeded", output)) == done
    assert ask(server, prediction("succeeded", [URL, OTHER])).urls == (URL, OTHER)
    failed = ask(server, prediction("failed", error=" NSFW\ncontent "))
    assert failed == Task(ID, TaskState.FAIL, failure="NSFW content")
    assert ask(server, prediction("canceled")).failure == "canceled"


def test_what_makes_no_sense(server: JsonServer) -> None:
    with pytest.raises(UnknownTask):
        asyncio.run(client(server).task("absent"))
    for answer in (
        prediction("done"),
        prediction("succeeded"),
        prediction("succeeded", ["words that the model wrote"]),
        prediction("starting") | {"id": "another"},
    ):
        with pytest.raises(ProviderInvalid):
            ask(server, answer)
    with pytest.raises(ProviderInvalid, match="LENS_REPLICATE_API_KEY"):
        asyncio.run(client(server, key="wrong").task(ID))


def _signed(body: bytes, age_seconds: int = 0, key: str = KEY) -> Webhook:
    at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_seconds)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Scheme(key).sign("msg_1", at, body.decode()),
    }
    return Webhook(body, headers)


def test_webhooks(server: JsonServer) -> None:
    """What is signed needs no question."""
    replicate = client(server)
    body = json.dumps(prediction("succeeded", [URL])).encode()
    told = asyncio.run(replicate.notice(_signed(body)))
    assert told == Notice("msg_1", ID, Task(ID, TaskState.SUCCESS, (URL,)))
    assert not server.asked

    other = "whsec_" + base64.b64encode(b"another key").decode()
    genuine = _signed(body)
    for webhook, code in (
        (_signed(body, key=other), "bad_signature"),
        (_signed(body, age_seconds=400), "expired"),
        (_signed(body, age_seconds=-400), "expired"),
        (Webhook(body.replace(b"out-0", b"out-2"), genuine.headers), "bad_signature"),
        (Webhook(body, {}), "bad_signature"),
        (Webhook(body, dict(genuine.headers) | {"webhook-signature": "v1"}), "bad_signature"),
        (Webhook(b"\xff", genuine.headers), "bad_signature"),
        (_signed(b'{"status": "succeeded"}'), "invalid_task_id"),
        (_signed(b"[]"), "invalid_json"),
    ):
        with pytest.raises(WebhookRefused) as raised:
            asyncio.run(replicate.notice(webhook))
        assert raised.value.code == code
