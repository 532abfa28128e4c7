"""The provider kie.ai.

https://docs.kie.ai/market/common/get-task-detail
https://docs.kie.ai/veo3-api/get-veo-3-video-details
https://docs.kie.ai/common-api/webhook-verification
https://docs.kie.ai/common-api/download-url
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from lens_pipeline.providers.client import Answer, Client
from lens_pipeline.providers.models import (
    TASK_ID,
    Limits,
    Notice,
    Provider,
    ProviderInvalid,
    ProviderUnavailable,
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

_OK, _LIMITED, _MAINTENANCE, _FAILED = 200, 429, 455, 501
# 422 with "recordInfo is null".
_UNKNOWN = frozenset({404, 422})
_REFUSED = frozenset({401, 402, 403})
_TASKS, _VEO = "/api/v1/jobs/recordInfo", "/api/v1/veo/record-info"
_DOWNLOAD = "/api/v1/common/download-url"
# Of Veo's successFlag.
_VEO_STATES = {0: TaskState.GENERATING, 1: TaskState.SUCCESS, 2: TaskState.FAIL, 3: TaskState.FAIL}


def signature(key: str, task_id: str, timestamp: str) -> str:
    """The value of X-Webhook-Signature, which does not cover the body."""
    signed = f"{task_id}.{timestamp}".encode()
    return base64.b64encode(hmac.digest(key.encode(), signed, hashlib.sha256)).decode()


class Kie(Provider):
    """Tasks of all its models, Veo's included."""

    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        super().__init__(settings.kie_api_key, "LENS_KIE_API_KEY")
        self._key, self._secret = settings.kie_webhook_key, settings.kie_secret
        authorization = f"Bearer {settings.kie_api_key}"
        self._client = Client(settings.kie_api, "LENS_KIE_API", authorization, limits)

    async def notice(self, webhook: Webhook) -> Notice:
        """By its signature alone where the key is set, else by the shared secret as well."""
        key = self._key or self._secret
        if not key:
            raise ProviderUnset("webhook_not_configured", "LENS_KIE_WEBHOOK_KEY or LENS_KIE_SECRET")
        # Its word alone counts for nothing.
        self.require_key()
        task_id = _named_task(webhook.json())
        if not self._key and _has_secret(webhook, key):
            return Notice(task_id, task_id)
        timestamp = webhook.headers.get("x-webhook-timestamp") or ""
        signed = webhook.headers.get("x-webhook-signature") or ""
        expected = signature(key, task_id, timestamp)
        if not timestamp or not _is_same(expected, signed):
            problem = "the signature does not fit the task and the time"
            raise WebhookRefused("bad_signature", problem)
        require_recent(timestamp, "X-Webhook-Timestamp")
        return Notice(f"{task_id} {timestamp}", task_id)

    async def task(self, task_id: str, model: str | None = None) -> Task:
        self.require_key()
        return await self._client.repeated(lambda last_turn: self._task(task_id, last_turn))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def fresh_url(self, url: str) -> str | None:
        """Works for 20 minutes; None: it is no file of this provider's."""
        self.require_key()

        async def asked(last_turn: float) -> str | None:
            answer = await self._client.ask("POST", _DOWNLOAD, last_turn, json={"url": url})
            body = self._body(answer)
            if body.get("code") in _UNKNOWN:
                return None
            _require_usable(body)
            return result_urls(body.get("data"))[0]

        return await self._client.repeated(asked)

    async def _task(self, task_id: str, last_turn: float) -> Task:
        params = {"taskId": task_id}
        answer = await self._client.ask("GET", _TASKS, last_turn, params=params)
        try:
            return read_task(task_id, self._body(answer))
        except UnknownTask:
            answer = await self._client.ask("GET", _VEO, last_turn, params=params)
            return read_veo_task(task_id, self._body(answer))

    def _body(self, answer: Answer) -> dict[str, Any]:
        body = answer.body
        if not isinstance(body, dict) or (answer.status != _OK and body.get("code") == _OK):
            raise ProviderInvalid(f"the provider answers {answer.status} with what makes no sense")
        if body.get("code") == _LIMITED:
            self._client.limit(answer.headers)
        return body


connect = Kie


def read_task(task_id: str, body: Mapping[str, Any]) -> Task:
    """Raises UnknownTask, ProviderInvalid or ProviderUnavailable."""
    data = _data(task_id, body)
    try:
        state = TaskState(data.get("state"))
    except ValueError:
        raise ProviderInvalid(
            f"the task has the unknown state {str(data.get('state'))[:40]!r}"
        ) from None
    if state is not TaskState.FAIL and body["code"] == _FAILED:
        raise ProviderInvalid(f"the task is {state} and failed")
    return _task(task_id, state, data, data.get("resultJson"), data.get("failMsg"))


def read_veo_task(task_id: str, body: Mapping[str, Any]) -> Task:
    """Raises as `read_task`."""
    data = _data(task_id, body)
    flag = data.get("successFlag")
    state = _VEO_STATES.get(flag) if isinstance(flag, int) else None
    if body["code"] == _FAILED:
        state = TaskState.FAIL
    if state is None:
        raise ProviderInvalid(f"the task has the unknown successFlag {str(flag)[:40]!r}")
    return _task(task_id, state, data, data.get("response"), data.get("errorMessage"))


def _data(task_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    code, data = body.get("code"), body.get("data")
    if not isinstance(code, int):
        raise ProviderInvalid("the provider's answer has no code")
    if code in _UNKNOWN:
        raise UnknownTask(f"the provider knows no task {task_id!r}")
    _require_usable(body)
    if not isinstance(data, dict):
        raise ProviderInvalid(f"the provider's answer has code {code} and no task")
    if data.get("taskId") != task_id:
        raise ProviderInvalid("the provider's answer is about another task")
    return data


def _require_usable(body: Mapping[str, Any]) -> None:
    code = body.get("code")
    if code in _REFUSED:
        raise ProviderInvalid(f"the provider refuses us with code {code}: see LENS_KIE_API_KEY")
    if code in (_MAINTENANCE, 500):
        raise ProviderUnavailable(f"the provider answers code {code}")
    if code not in (_OK, _FAILED):
        raise ProviderInvalid(f"the provider's answer has code {code} and no task")


def _task(
    task_id: str, state: TaskState, data: Mapping[str, Any], result: object, failure: object
) -> Task:
    cost = data.get("creditsConsumed")
    return Task(
        task_id,
        state,
        urls=result_urls(result) if state is TaskState.SUCCESS else (),
        failure=in_words(failure) if state is TaskState.FAIL else None,
        credits=float(cost) if isinstance(cost, int | float) else None,
    )


def _named_task(message: Mapping[str, Any]) -> str:
    """Raises WebhookInvalid."""
    for part in (message.get("data"), message):
        for name in ("taskId", "task_id"):
            value = part.get(name) if isinstance(part, dict) else None
            if value is not None:
                if isinstance(value, str) and TASK_ID.fullmatch(value):
                    return value
                raise WebhookInvalid("invalid_task_id", f"{name} is no id of a task")
    raise WebhookInvalid("invalid_task_id", "the body has no taskId")


def _has_secret(webhook: Webhook, secret: str) -> bool:
    """In its address, or as a bearer token."""
    scheme, _, token = webhook.headers.get("authorization", "").partition(" ")
    given = [webhook.query.get("secret", "")]
    given += [token.strip()] if scheme.lower() == "bearer" else []
    return any(_is_same(secret, one) for one in given)


def _is_same(expected: str, given: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(expected.encode(), given.encode(errors="replace"))
