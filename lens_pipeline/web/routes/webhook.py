"""Webhooks of providers, and a look at a task by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from lens_pipeline.catalog.provider_tasks import TaskRow
from lens_pipeline.core import postgres
from lens_pipeline.engine.finished_tasks import finish_task
from lens_pipeline.providers import provider_of
from lens_pipeline.providers.models import (
    TASK_ID,
    Notice,
    Provider,
    ProviderError,
    ProviderUnavailable,
    ProviderUnset,
    Task,
    TaskState,
    UnknownTask,
    Webhook,
    WebhookInvalid,
    WebhookRefused,
)
from lens_pipeline.web.auth.access import Access
from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem

router = APIRouter(tags=["provider"])

# Other names of a provider in its webhook's address.
_SAME = {"veo": "kie"}
# Retry-After when the provider names none.
_RETRY_SECONDS = 5

_PROVIDER_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        502: "The provider's answer makes no sense.",
        504: "The provider does not answer in time.",
    }.items()
}
_WEBHOOK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "As the provider sends it",
                }
            }
        },
    }
}

_PROVIDER_PARAMETER = {
    "parameters": [
        {"name": "provider", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
}


class TaskOut(BaseModel):
    """A task of the provider's, and what became of its row."""

    status: Literal["updated", "unchanged", "pending"]
    """`pending`: the task is not finished, and nothing was written."""
    task_id: str
    state: TaskState
    generation_id: str
    generation_ids: list[str]
    """Of all rows of the task, which are finished alike; the first is `generation_id`."""
    generation_status: str
    asset_url: str | None
    """The first result."""
    extra_urls: list[str]
    """Further results, which no row holds."""
    message: str | None
    """Why the task failed, or the row cannot be used."""
    run_ids: list[str]
    """Runs that were queued now."""


class DuplicateOut(BaseModel):
    """The same delivery was handled before."""

    status: Literal["duplicate"] = "duplicate"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A genuine webhook and the rows of its task."""

    name: str
    rows: list[TaskRow]


async def _read_body(request: Request) -> bytes:
    return await request.body()


async def _notice(
    request: Request, context: ContextDep, body: Annotated[bytes, Depends(_read_body)]
) -> Notice:
    """Asynchronous: the provider may have to be asked for its keys."""
    provider = _provider(context, _provider_name(request))
    webhook = Webhook(body, request.headers, request.query_params)
    try:
        return await provider.notice(webhook)
    except WebhookRefused as error:
        access: Access = request.app.state.access
        access.forged_webhooks.count(request)
        status = 400 if isinstance(error, WebhookInvalid) else 401
        raise ApiError(status, error.code, str(error)) from error
    except ProviderError as error:
        raise _problem(error) from error
    finally:
        postgres.restart_deadline()


def _delivered(
    request: Request, context: ContextDep, notice: Annotated[Notice, Depends(_notice)]
) -> Delivery | None:
    """None: it was handled before."""
    provider = _provider_name(request)
    name = f"{provider} {notice.name}"
    if context.deliveries.is_known(name):
        return None
    return Delivery(name, _rows_of(context, notice.task_id, provider))


async def _delivered_task(
    request: Request,
    context: ContextDep,
    notice: Annotated[Notice, Depends(_notice)],
    delivery: Annotated[Delivery | None, Depends(_delivered)],
) -> Task | None:
    if delivery is None:
        return None
    return notice.task or await _asked(context, delivery.rows[0], _provider_name(request))


@router.post("/api/kie/webhook", responses=_PROVIDER_ERRORS, openapi_extra=_WEBHOOK_BODY)
def receive_webhook(
    context: ContextDep,
    delivery: Annotated[Delivery | None, Depends(_delivered)],
    task: Annotated[Task | None, Depends(_delivered_task)],
) -> TaskOut | DuplicateOut:
    """As `POST /api/webhooks/kie`."""
    if delivery is None or task is None:
        return DuplicateOut()
    found = _settled(context, delivery.rows, task, "webhook")
    if task.state.is_final:
        context.deliveries.remember(delivery.name)
    return found


@router.post(
    "/api/webhooks/{provider}",
    responses=_PROVIDER_ERRORS,
    openapi_extra=_WEBHOOK_BODY | _PROVIDER_PARAMETER,
)
def receive_provider_webhook(
    context: ContextDep,
    delivery: Annotated[Delivery | None, Depends(_delivered)],
    task: Annotated[Task | None, Depends(_delivered_task)],
) -> TaskOut | DuplicateOut:
    """Take a provider's word that a task is done, and look at the task unless its word is signed.

    `provider` is kie, veo (the same), fal or replicate.
    """
    return receive_webhook(context, delivery, task)


def _provider_name(request: Request) -> str:
    name: str = request.path_params.get("provider", "kie")
    return _SAME.get(name, name)


def _wanted(
    caller: CallerDep,
    context: ContextDep,
    task_id: Annotated[str, Query(alias="taskId", pattern=f"^{TASK_ID.pattern}$")],
) -> list[TaskRow]:
    """Raises ApiError 404: there is none that the caller may see."""
    rows = context.pipeline.catalog.of_task(task_id)
    seen = _some([row for row in rows if caller.may_see_user(row.user_id)], task_id)
    return [row for row in seen if _named(context, row) == _named(context, seen[0])]


async def _wanted_task(
    context: ContextDep, rows: Annotated[list[TaskRow], Depends(_wanted)]
) -> Task:
    return await _asked(context, rows[0], _named(context, rows[0])[0])


@router.post("/api/kie/sync", responses=_PROVIDER_ERRORS)
def sync_task(
    context: ContextDep,
    rows: Annotated[list[TaskRow], Depends(_wanted)],
    task: Annotated[Task, Depends(_wanted_task)],
) -> TaskOut:
    """Look at a task as its webhook would, for one that has not come."""
    return _settled(context, rows, task, "api")


def _settled(context: Context, rows: Sequence[TaskRow], task: Task, origin: str) -> TaskOut:
    queue = context.queue
    pipeline, instance = context.pipeline, queue.instance
    ended = {
        row.id: finish_task(pipeline, instance, row, task, queue=queue, origin=origin)
        for row in rows
    }
    settled = {row_id: one for row_id, one in ended.items() if one}
    if not settled:
        raise _unknown_task(task.id)
    status = "updated" if any(one.changed for one in settled.values()) else "unchanged"
    first = next(iter(settled.values()))
    return TaskOut(
        status=status if task.state.is_final else "pending",
        task_id=task.id,
        state=task.state,
        generation_id=next(iter(settled)),
        generation_ids=list(settled),
        generation_status=first.status,
        asset_url=task.urls[0] if task.urls else None,
        extra_urls=list(task.urls[1:]),
        message=task.failure or first.problem,
        run_ids=[run_id for one in settled.values() for run_id in one.run_ids],
    )


async def _asked(context: Context, row: TaskRow, provider: str) -> Task:
    """Asynchronous: a slow provider must not hold a thread."""
    _, model = _named(context, row)
    try:
        return await _provider(context, provider).task(row.task_id, model)
    except ProviderError as error:
        raise _problem(error) from error
    finally:
        postgres.restart_deadline()


def _named(context: Context, row: TaskRow) -> tuple[str, str | None]:
    return provider_of(row.provider, context.pipeline.settings)


def _provider(context: Context, name: str) -> Provider:
    """Raises ApiError 404."""
    provider = context.provider(name)
    if provider is None:
        raise ApiError(404, "unknown_provider", f"there is no provider {name[:40]!r}")
    return provider


def _problem(error: ProviderError) -> ApiError:
    if isinstance(error, ProviderUnset):
        return ApiError(503, error.code, str(error))
    if isinstance(error, UnknownTask):
        return ApiError(404, "unknown_task", str(error))
    if isinstance(error, ProviderUnavailable):
        seconds = max(1, math.ceil(error.retry_after_seconds or _RETRY_SECONDS))
        status, headers = 504 if error.is_late else 503, {"Retry-After": str(seconds)}
        return ApiError(status, "provider_unavailable", str(error), headers=headers)
    return ApiError(502, "provider_invalid", str(error))


def _unknown_task(task_id: str) -> ApiError:
    return ApiError(404, "unknown_task", f"no generation is of task {task_id!r}")


def _rows_of(context: Context, task_id: str, provider: str) -> list[TaskRow]:
    """Of the provider, where rows name theirs. Raises ApiError 404."""
    return _some(
        [
            row
            for row in context.pipeline.catalog.of_task(task_id)
            if row.provider is None or _named(context, row)[0] == provider
        ],
        task_id,
    )


def _some(rows: list[TaskRow], task_id: str) -> list[TaskRow]:
    """Raises ApiError 404: there are none."""
    if not rows:
        raise _unknown_task(task_id)
    return rows
