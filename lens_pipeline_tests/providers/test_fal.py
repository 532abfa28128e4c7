"""fal: requests as its queue and its webhooks give them."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lens_pipeline import settings
from lens_pipeline.providers.fal import Fal
from lens_pipeline.providers.models import (
    Notice,
    ProviderInvalid,
    ProviderUnset,
    Task,
    TaskState,
    UnknownTask,
    Webhook,
    WebhookRefused,
)
from lens_pipeline_tests.providers.json_server import JsonServer

ID = "024ca5b1-45d3-4afd-883e-ad3abe2a1c4d"
URL = "https://v3.fal.media/files/penguin/1.png"
OTHER = "https://v3.fal.media/files/penguin/2.png"
JWKS = "/.well-known/jwks.json"
PATH = f"/fal-ai/flux/requests/{ID}"
IMAGES = {
    "images": [{"url": URL, "content_type": "image/png"}, {"url": OTHER, "width": 1024}],
    "seed": 196619188014358660,
    "prompt": "a cute dog",
}


@pytest.fixture
def server() -> Iterator[JsonServer]:
    with JsonServer("Key fal_of_tests") as started:
        yield started


def client(server: JsonServer, **more: str) -> Fal:
    values = {
        "LENS_FAL_API": server.url(""),
        "LENS_FAL_API_KEY": "fal_of_tests",
        "LENS_FAL_JWKS_URL": server.url(JWKS),
        **more,
    }
    loaded, _ = settings.load(values, dotenv=None)
    return Fal(loaded)


def ask(server: JsonServer, status: Any, result: tuple[int, Any] = (404, None)) -> Task:
    server.answers |= {f"{PATH}/status": (200, status), PATH: result}
    return asyncio.run(client(server).task(ID, "fal-ai/flux/dev"))


def test_each_state(server: JsonServer) -> None:
    done = {"status": "COMPLETED"}
    assert ask(server, {"status": "IN_QUEUE", "queue_position": 3}) == Task(ID, TaskState.QUEUING)
    assert ask(server, {"status": "IN_PROGRESS"}) == Task(ID, TaskState.GENERATING)
    assert ask(server, done, (200, IMAGES)) == Task(ID, TaskState.SUCCESS, (URL, OTHER))
    video = {"video": {"url": URL, "content_type": "video/mp4"}}
    assert ask(server, done, (200, video)).urls == (URL,)
    with_sound = {"audio": {"url": OTHER, "content_type": "audio/mpeg"}, **video}
    assert ask(server, done, (200, with_sound)).urls == (URL,)
    refused = {"detail": [{"loc": ["body", "prompt"], "msg": "field required"}]}
    failed = Task(ID, TaskState.FAIL, failure="field required")
    assert ask(server, done, (422, refused)) == failed
    late = done | {"error": "Request timed out", "error_type": "request_timeout"}
    assert ask(server, late).failure == "Request timed out"


def test_what_makes_no_sense(server: JsonServer) -> None:
    with pytest.raises(UnknownTask):
        asyncio.run(client(server).task("absent", "fal-ai/flux"))
    with pytest.raises(ProviderUnset, match="LENS_FAL_MODEL"):
        asyncio.run(client(server).task(ID))
    with pytest.raises(ProviderInvalid, match="status"):
        ask(server, {"status": "LOST"})
    with pytest.raises(ProviderInvalid, match="without a result"):
        ask(server, {"status": "COMPLETED"}, (200, {"seed": 1}))
    with pytest.raises(ProviderInvalid, match="LENS_FAL_API_KEY"):
        asyncio.run(client(server, LENS_FAL_API_KEY="wrong").task(ID, "fal-ai/flux"))
    server.answers[f"{PATH}/status"] = (200, {"status": "IN_QUEUE"})
    assert asyncio.run(client(server, LENS_FAL_MODEL="fal-ai/flux").task(ID)).id == ID


def _publish(server: JsonServer, *keys: Ed25519PrivateKey) -> None:
    points = [base64.urlsafe_b64encode(key.public_key().public_bytes_raw()) for key in keys]
    found = [{"kty": "OKP", "crv": "Ed25519", "x": one.decode().rstrip("=")} for one in points]
    server.answers[JWKS] = (200, {"keys": found})


def _signed(key: Ed25519PrivateKey, body: bytes, age_seconds: int = 0) -> Webhook:
    at = str(int(time.time()) - age_seconds)
    signed = "\n".join([ID, "a-user", at, hashlib.sha256(body).hexdigest()])
    headers = {
        "x-fal-webhook-request-id": ID,
        "x-fal-webhook-user-id": "a-user",
        "x-fal-webhook-timestamp": at,
        "x-fal-webhook-signature": key.sign(signed.encode()).hex(),
    }
    return Webhook(body, headers)


def _body(status: str = "OK", payload: Any = IMAGES, **more: Any) -> bytes:
    return json.dumps({"request_id": ID, "status": status, "payload": payload, **more}).encode()


def test_webhooks(server: JsonServer) -> None:
    """What is signed needs no question, and its keys are asked for once."""
    old, new, foreign = (Ed25519PrivateKey.generate() for _ in range(3))
    _publish(server, old, new)
    fal = client(server)
    genuine = _signed(new, _body())

    async def told(webhook: Webhook) -> Notice:
        return await fal.notice(webhook)

    async def all_told() -> None:
        found = await told(genuine)
        assert found.task == Task(ID, TaskState.SUCCESS, (URL, OTHER))
        assert (await told(_signed(old, _body(payload=None)))).task is None
        failed = _body("ERROR", {"detail": "Request timed out"}, error="Invalid status code: 504")
        assert (await told(_signed(old, failed))).task == Task(
            ID, TaskState.FAIL, failure="Request timed out"
        )
        for webhook, code in (
            (_signed(foreign, _body()), "bad_signature"),
            (_signed(new, _body(), age_seconds=400), "expired"),
            (_signed(new, _body(), age_seconds=-400), "expired"),
            (Webhook(_body(seed=1), genuine.headers), "bad_signature"),
            (Webhook(_body(), {}), "bad_signature"),
            (
                Webhook(_body(), dict(genuine.headers) | {"x-fal-webhook-signature": "zz"}),
                "bad_signature",
            ),
            (_signed(new, b'{"status": "OK"}'), "invalid_task_id"),
            (_signed(new, b"[]"), "invalid_json"),
        ):
            with pytest.raises(WebhookRefused) as raised:
                await told(webhook)
            assert raised.value.code == code

    asyncio.run(all_told())
    assert server.asked == {JWKS: 1}


def test_a_new_key_is_learned(server: JsonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    _publish(server, old)
    monkeypatch.setattr("lens_pipeline.providers.fal._NEW_KEYS_SECONDS", -1.0)
    fal = client(server)

    async def asked() -> None:
        await fal.notice(_signed(old, _body()))
        _publish(server, new)
        await fal.notice(_signed(new, _body()))

    asyncio.run(asked())
    assert server.asked == {JWKS: 2}
