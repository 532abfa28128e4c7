"""The provider's webhook, a look at a task by hand, and the retry of generations."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field

from lens_pipeline.catalog.provider_tasks import TaskRow
from lens_pipeline.core import postgres
from lens_pipeline.derivatives.registry import of_kind
from lens_pipeline.engine.finished_tasks import finish_task
from lens_pipeline.providers.kie import (
    TASK_ID,
    Provider,
    ProviderInvalid,
    ProviderUnavailable,
    Task,
    TaskState,
    UnknownTask,
    WebhookRefused,
    verify_webhook,
)
from lens_pipeline.web.auth.access import Access
from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.routes.generations import GenerationOut, shown, visible_entry

router = APIRouter(tags=["provider"])

# In one request: each failure is an event.
_MOST_RETRIED = 200
# Retry-After when the provider names none.
_RETRY_SECONDS = 5

_PROVIDER_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        409: "Several rows claim the task.",
        502: "The provider's answer makes no sense.",
        504: "The provider does not answer in time.",
    }.items()
}
_NOT_FAILED: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "It has not failed."}
}
_WEBHOOK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "taskId or task_id, in data or by itself; the rest is ignored",
                    "properties": {"data": {"type": "object"}},
                }
            }
        },
    }
}


class TaskOut(BaseModel):
    """A task of the provider's, and what became of its row."""

    status: Literal["updated", "unchanged", "pending"]
    """`pending`: the task is not finished, and nothing was written."""
    task_id: str
    state: TaskState
    generation_id: str
    generation_status: str
    asset_url: str | None
    """The first result."""
    extra_urls: list[str]
    """Further results, which no row holds."""
    message: str | None
    """Why the task failed, or the row cannot be used."""
    run_ids: list[str]
    """Runs that were queued now."""


class RetryIn(BaseModel):
    """Generations to try again."""

    ids: list[str] = Field(min_length=1, max_length=_MOST_RETRIED)


class RetryOut(BaseModel):
    """What became of each id."""

    retried: list[str]
    not_failed: list[str]
    not_found: list[str]


class DuplicateOut(BaseModel):
    """The same delivery was handled before."""

    status: Literal["duplicate"] = "duplicate"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A genuine webhook and its row."""

    name: str
    row: TaskRow


async def _read_body(request: Request) -> bytes:
    return await request.body()


def _delivered(
    request: Request,
    context: ContextDep,
    body: Annotated[bytes, Depends(_read_body)],
    x_webhook_timestamp: Annotated[str | None, Header()] = None,
    x_webhook_signature: Annotated[str | None, Header()] = None,
) -> Delivery | None:
    """None: it was handled before."""
    key = context.pipeline.settings.kie_webhook_key
    if not key:
        raise _unset("webhook_not_configured", "LENS_KIE_WEBHOOK_KEY")
    _provider(context)
    try:
        task_id = _task_id(body)
        verify_webhook(key, task_id, x_webhook_timestamp, x_webhook_signature)
    except (ApiError, WebhookRefused) as error:
        access: Access = request.app.state.access
        access.forged_webhooks.count(request)
        if isinstance(error, ApiError):
            raise
        raise ApiError(401, error.code, str(error)) from error
    name = f"{task_id} {x_webhook_timestamp}"
    if context.deliveries.is_known(name):
        return None
    return Delivery(name, _only_row(context, task_id))


async def _delivered_task(
    context: ContextDep, delivery: Annotated[Delivery | None, Depends(_delivered)]
) -> Task | None:
    return await _asked(context, delivery.row.task_id) if delivery else None


@router.post("/api/kie/webhook", responses=_PROVIDER_ERRORS, openapi_extra=_WEBHOOK_BODY)
def receive_webhook(
    context: ContextDep,
    delivery: Annotated[Delivery | None, Depends(_delivered)],
    task: Annotated[Task | None, Depends(_delivered_task)],
) -> TaskOut | DuplicateOut:
    """Take the provider's word that a task is done as a hint, and look at the task."""
    if delivery is None or task is None:
        return DuplicateOut()
    found = _settled(context, delivery.row, task, "webhook")
    if task.state.is_final:
        context.deliveries.remember(delivery.name)
    return found


def _wanted(
    caller: CallerDep,
    context: ContextDep,
    task_id: Annotated[str, Query(alias="taskId", pattern=f"^{TASK_ID.pattern}$")],
) -> TaskRow:
    """Raises ApiError 404: there is none that the caller may see."""
    _provider(context)
    row = _only_row(context, task_id)
    if not caller.may_see_user(row.user_id):
        raise _unknown_task(task_id)
    return row


async def _wanted_task(context: ContextDep, row: Annotated[TaskRow, Depends(_wanted)]) -> Task:
    return await _asked(context, row.task_id)


@router.post("/api/kie/sync", responses=_PROVIDER_ERRORS)
def sync_task(
    context: ContextDep,
    row: Annotated[TaskRow, Depends(_wanted)],
    task: Annotated[Task, Depends(_wanted_task)],
) -> TaskOut:
    """Look at a task as its webhook would, for one that has not come."""
    return _settled(context, row, task, "api")


@router.post("/api/generations/{generation_id}/retry", responses=_NOT_FAILED)
def retry_generation(generation_id: str, caller: CallerDep, context: ContextDep) -> GenerationOut:
    """Forget why its preview or poster failed, and make it now."""
    entry = visible_entry(context, caller, generation_id)
    # A master may have the same id.
    tried = context.retry([generation_id], of_kind(entry.row.kind))
    entry = visible_entry(context, caller, generation_id)
    if not tried:
        problem = f"nothing of {generation_id} has failed: it is {entry.status.state}"
        raise ApiError(409, "not_failed", problem)
    (generation,) = shown(context, entry)
    return generation


@router.post("/api/generations/retry")
def retry_generations(wanted: RetryIn, caller: CallerDep, context: ContextDep) -> RetryOut:
    """The same of several, in batches."""
    found = context.pipeline.catalog.library_rows(wanted.ids)
    visible = {key: row for key, row in found.items() if caller.may_see_user(row.user_id)}
    if not visible:
        raise not_found("generation", ",".join(wanted.ids))
    retried: set[str] = set()
    for kind in {row.kind for row in visible.values()}:
        ids = [row.id for row in visible.values() if row.kind is kind]
        retried.update(*context.retry(ids, of_kind(kind)).values())
    return RetryOut(
        retried=[key for key, row in visible.items() if row.id in retried],
        not_failed=[key for key, row in visible.items() if row.id not in retried],
        not_found=[key for key in dict.fromkeys(wanted.ids) if key not in visible],
    )


def _settled(context: Context, row: TaskRow, task: Task, origin: str) -> TaskOut:
    settled = finish_task(context.pipeline, context.queue, row, task, origin)
    if settled is None:
        raise _unknown_task(row.task_id)
    status = "updated" if settled.changed else "unchanged"
    return TaskOut(
        status=status if task.state.is_final else "pending",
        task_id=task.id,
        state=task.state,
        generation_id=row.id,
        generation_status=settled.status,
        asset_url=task.urls[0] if task.urls else None,
        extra_urls=list(task.urls[1:]),
        message=task.failure or settled.problem,
        run_ids=list(settled.run_ids),
    )


async def _asked(context: Context, task_id: str) -> Task:
    """Asynchronous: a slow provider must not hold a thread."""
    try:
        return await _provider(context).task(task_id)
    except UnknownTask as error:
        raise ApiError(404, "unknown_task", str(error)) from error
    except ProviderInvalid as error:
        raise ApiError(502, "provider_invalid", str(error)) from error
    except ProviderUnavailable as error:
        seconds = max(1, math.ceil(error.retry_after_seconds or _RETRY_SECONDS))
        status, headers = 504 if error.is_late else 503, {"Retry-After": str(seconds)}
        raise ApiError(status, "provider_unavailable", str(error), headers=headers) from error
    finally:
        postgres.restart_deadline()


def _provider(context: Context) -> Provider:
    if context.provider is None:
        raise _unset("provider_not_configured", "LENS_KIE_API_KEY")
    return context.provider


def _unset(code: str, variable: str) -> ApiError:
    return ApiError(503, code, f"{variable} is not set: set it and start again")


def _unknown_task(task_id: str) -> ApiError:
    return ApiError(404, "unknown_task", f"no generation is of task {task_id!r}")


def _only_row(context: Context, task_id: str) -> TaskRow:
    rows = context.pipeline.catalog.of_task(task_id)
    if not rows:
        raise _unknown_task(task_id)
    if len(rows) > 1:
        raise ApiError(409, "ambiguous_task", f"{len(rows)} generations are of task {task_id!r}")
    return rows[0]


def _task_id(body: bytes) -> str:
    """Raises ApiError 400."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is no JSON that can be read") from None
    if not isinstance(message, dict):
        raise ApiError(400, "invalid_json", "the body is no JSON object")
    data = message.get("data")
    for part in (data, message):
        for name in ("taskId", "task_id"):
            value = part.get(name) if isinstance(part, dict) else None
            if value is not None:
                if isinstance(value, str) and TASK_ID.fullmatch(value):
                    return value
                raise ApiError(400, "invalid_task_id", f"{name} is no id of a task")
    raise ApiError(400, "invalid_task_id", "the body has no taskId")
