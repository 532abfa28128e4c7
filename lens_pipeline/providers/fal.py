"""The provider fal: its queue, and webhooks that it signs with ED25519.

https://docs.fal.ai/model-apis/model-endpoints/queue
https://docs.fal.ai/model-apis/model-endpoints/webhooks
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lens_pipeline.providers.client import Answer, Client
from lens_pipeline.providers.models import (
    TASK_ID,
    Limits,
    Notice,
    Provider,
    ProviderInvalid,
    ProviderUnset,
    Task,
    TaskState,
    UnknownTask,
    Webhook,
    WebhookInvalid,
    WebhookRefused,
    in_words,
    require_recent,
    result_urls,
)
from lens_pipeline.settings import Settings

_OK, _ACCEPTED, _UNKNOWN = 200, 202, 404
_REFUSED = frozenset({401, 403})
# The model refused what it was given.
_FAILED = frozenset({400, 422})
_STATES = {"IN_QUEUE": TaskState.QUEUING, "IN_PROGRESS": TaskState.GENERATING}
_COMPLETED = "COMPLETED"
_HEADERS = ("x-fal-webhook-request-id", "x-fal-webhook-user-id", "x-fal-webhook-timestamp")
_SIGNATURE = "x-fal-webhook-signature"
# fal asks to keep its keys for no longer than a day.
_KEYS_SECONDS = 24 * 3600.0
# An unknown signature may be of a new key.
_NEW_KEYS_SECONDS = 60.0


class Fal(Provider):
    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        super().__init__(settings.fal_api_key, "LENS_FAL_API_KEY")
        authorization = f"Key {settings.fal_api_key}"
        self._client = Client(settings.fal_api, "LENS_FAL_API", authorization, limits)
        keys = urlsplit(settings.fal_jwks_url)
        self._keys_path = keys.path
        # Whose keys are public: they are read without ours.
        self._keys_client = Client(
            f"{keys.scheme}://{keys.netloc}", "LENS_FAL_JWKS_URL", None, limits
        )
        self._model = settings.fal_model
        self._keys: tuple[Ed25519PublicKey, ...] = ()
        # Monotonic times.
        self._keys_at = self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def notice(self, webhook: Webhook) -> Notice:
        self.require_key()
        parts = [webhook.headers.get(name, "") for name in _HEADERS]
        if not all(parts):
            raise WebhookRefused("bad_signature", "a header of the signature is missing")
        # Before anything is asked of fal.
        require_recent(parts[2], "X-Fal-Webhook-Timestamp")
        signed = "\n".join([*parts, hashlib.sha256(webhook.body).hexdigest()]).encode()
        await self._verify(signed, webhook.headers.get(_SIGNATURE, ""))
        message = webhook.json()
        task_id = message.get("request_id")
        if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
            raise WebhookInvalid("invalid_task_id", "the body has no request_id")
        return Notice(f"{task_id} {parts[2]}", task_id, _delivered(task_id, message))

    async def task(self, task_id: str, model: str | None = None) -> Task:
        self.require_key()
        model = model or self._model
        if not model:
            raise ProviderUnset("provider_not_configured", "LENS_FAL_MODEL")
        # The addresses of a request have only the first two parts of the model's id.
        name = "/".join(quote(part, safe="") for part in model.split("/")[:2])
        path = f"/{name}/requests/{quote(task_id, safe='')}"
        return await self._client.repeated(lambda last: self._task(task_id, path, last))

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._keys_client.aclose()

    async def _task(self, task_id: str, path: str, last_turn: float) -> Task:
        told = await self._client.ask("GET", f"{path}/status", last_turn)
        _require_usable(task_id, told)
        status = told.body.get("status") if isinstance(told.body, dict) else None
        if status in _STATES:
            return Task(task_id, _STATES[status])
        if status != _COMPLETED:
            raise ProviderInvalid(f"the task has the unknown status {str(status)[:40]!r}")
        if told.body.get("error"):
            return Task(task_id, TaskState.FAIL, failure=_reason(told.body, None))
        result = await self._client.ask("GET", path, last_turn)
        if result.status == _OK:
            return Task(task_id, TaskState.SUCCESS, result_urls(_files(result.body)))
        if result.status not in _FAILED:
            _require_usable(task_id, result)
            raise ProviderInvalid("the task is completed, and its result is not there")
        return Task(task_id, TaskState.FAIL, failure=_reason(told.body, result.body))

    async def _verify(self, signed: bytes, signature: str) -> None:
        """Raises WebhookRefused, ProviderInvalid or ProviderUnavailable."""
        try:
            given = bytes.fromhex(signature)
        except ValueError:
            raise WebhookRefused("bad_signature", "the signature is no hexadecimal") from None
        async with self._asking:
            if time.monotonic() - self._keys_at > _KEYS_SECONDS:
                await self._read_keys()
            if not _is_signed(self._keys, signed, given):
                await self._read_keys()
        if not _is_signed(self._keys, signed, given):
            raise WebhookRefused("bad_signature", "the signature is of none of the provider's keys")

    async def _read_keys(self) -> None:
        """At most once in _NEW_KEYS_SECONDS, as any stranger can have this asked for."""
        if time.monotonic() - self._asked_at < _NEW_KEYS_SECONDS:
            return
        self._asked_at = time.monotonic()

        async def asked(last_turn: float) -> tuple[Ed25519PublicKey, ...]:
            answer = await self._keys_client.ask("GET", self._keys_path, last_turn)
            found = answer.body.get("keys") if isinstance(answer.body, dict) else None
            if answer.status != _OK or not isinstance(found, list):
                raise ProviderInvalid("the provider's keys cannot be read: see LENS_FAL_JWKS_URL")
            return tuple(key for key in map(_key, found) if key is not None)

        self._keys = await self._keys_client.repeated(asked)
        self._keys_at = time.monotonic()


connect = Fal


def _key(jwk: object) -> Ed25519PublicKey | None:
    """None: it is of another kind."""
    text = jwk.get("x") if isinstance(jwk, dict) else None
    try:
        return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(f"{text}=="))
    except ValueError:
        return None


def _is_signed(keys: tuple[Ed25519PublicKey, ...], signed: bytes, signature: bytes) -> bool:
    for key in keys:
        try:
            key.verify(signature, signed)
        except InvalidSignature:
            continue
        return True
    return False


def _delivered(task_id: str, message: Mapping[str, Any]) -> Task | None:
    """None: fal could not put the result into the delivery; it is to be asked for."""
    payload = message.get("payload")
    if message.get("status") == "ERROR":
        return Task(task_id, TaskState.FAIL, failure=_reason(message, payload))
    if message.get("status") != "OK":
        status = str(message.get("status"))[:40]
        raise ProviderInvalid(f"the task has the unknown status {status!r}")
    if payload is None:
        return None
    return Task(task_id, TaskState.SUCCESS, result_urls(_files(payload)))


def _files(payload: object) -> list[object]:
    """Every file of a result: models name theirs as they like."""
    if isinstance(payload, list):
        return [file for one in payload for file in _files(one)]
    if not isinstance(payload, dict):
        return []
    if "url" in payload:
        return [payload]
    return [file for one in payload.values() for file in _files(one)]


def _require_usable(task_id: str, answer: Answer) -> None:
    """Raises UnknownTask or ProviderInvalid."""
    if answer.status == _UNKNOWN:
        raise UnknownTask(f"the provider knows no task {task_id!r}")
    if answer.status in _REFUSED:
        raise ProviderInvalid(f"the provider refuses us with {answer.status}: see LENS_FAL_API_KEY")
    if answer.status not in (_OK, _ACCEPTED):
        raise ProviderInvalid(f"the provider answers {answer.status} with what makes no sense")


def _reason(message: object, payload: object) -> str | None:
    """In fal's words: of the detail of a validation, else the error."""
    detail = payload.get("detail") if isinstance(payload, dict) else None
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        detail = detail[0].get("msg")
    error = message.get("error") if isinstance(message, dict) else None
    return in_words(detail) or in_words(error)
