"""The provider Replicate: predictions, and webhooks by the scheme of Standard Webhooks.

https://replicate.com/docs/reference/http#predictions.get
https://replicate.com/docs/topics/webhooks/verify-webhook
"""

from typing import Any
from urllib.parse import quote

from standardwebhooks import Webhook as Scheme
from standardwebhooks import WebhookVerificationError

from lens_pipeline.providers.client import Client
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
    result_urls,
)
from lens_pipeline.settings import Settings

_OK, _UNKNOWN = 200, 404
_REFUSED = frozenset({401, 402, 403})
_STATES = {
    "starting": TaskState.WAITING,
    "processing": TaskState.GENERATING,
    "succeeded": TaskState.SUCCESS,
    "failed": TaskState.FAIL,
    "canceled": TaskState.FAIL,
    "aborted": TaskState.FAIL,
}


class Replicate(Provider):
    def __init__(self, settings: Settings, limits: Limits | None = None) -> None:
        super().__init__(settings.replicate_api_key, "LENS_REPLICATE_API_KEY")
        key = settings.replicate_webhook_key
        self._scheme = Scheme(key) if key else None
        authorization = f"Bearer {settings.replicate_api_key}"
        self._client = Client(settings.replicate_api, "LENS_REPLICATE_API", authorization, limits)

    async def notice(self, webhook: Webhook) -> Notice:
        if self._scheme is None:
            raise ProviderUnset("webhook_not_configured", "LENS_REPLICATE_WEBHOOK_KEY")
        try:
            self._scheme.verify(webhook.body, dict(webhook.headers), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            # ValueError: a header that is not of the scheme's form, or a body that is no text.
            reason = f"the delivery is not proved: {error}"
            code = "expired" if "too" in str(error) else "bad_signature"
            raise WebhookRefused(code, reason) from error
        prediction = webhook.json()
        task_id = prediction.get("id")
        if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
            raise WebhookInvalid("invalid_task_id", "the body is no prediction with an id")
        return Notice(webhook.headers["webhook-id"], task_id, read_prediction(task_id, prediction))

    async def task(self, task_id: str, model: str | None = None) -> Task:
        self.require_key()
        path = f"/v1/predictions/{quote(task_id, safe='')}"

        async def asked(last_turn: float) -> Task:
            answer = await self._client.ask("GET", path, last_turn)
            if answer.status == _UNKNOWN:
                raise UnknownTask(f"the provider knows no task {task_id!r}")
            if answer.status in _REFUSED:
                raise ProviderInvalid(
                    f"the provider refuses us with {answer.status}: see LENS_REPLICATE_API_KEY"
                )
            if answer.status != _OK or not isinstance(answer.body, dict):
                raise ProviderInvalid(
                    f"the provider answers {answer.status} with what makes no sense"
                )
            if answer.body.get("id") != task_id:
                raise ProviderInvalid("the provider's answer is about another task")
            return read_prediction(task_id, answer.body)

        return await self._client.repeated(asked)

    async def aclose(self) -> None:
        await self._client.aclose()


connect = Replicate


def read_prediction(task_id: str, prediction: dict[str, Any]) -> Task:
    """Raises ProviderInvalid."""
    state = _STATES.get(str(prediction.get("status")))
    if state is None:
        status = str(prediction.get("status"))[:40]
        raise ProviderInvalid(f"the task has the unknown status {status!r}")
    if state is TaskState.SUCCESS:
        return Task(task_id, state, result_urls(prediction.get("output")))
    failure = prediction.get("error") or prediction.get("status")
    return Task(task_id, state, failure=in_words(failure) if state.is_final else None)
