"""Failed previews and posters, tried again by hand."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from lens_pipeline.derivatives.registry import of_kind
from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.context import ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.routes.generations import GenerationOut, shown, visible_entry

router = APIRouter(tags=["generations"])

# In one request: each failure is an event.
_MOST_RETRIED = 200
_NOT_FAILED: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "It has not failed."}
}


class RetryIn(BaseModel):
    """Generations to try again."""

    ids: list[str] = Field(min_length=1, max_length=_MOST_RETRIED)


class RetryOut(BaseModel):
    """What became of each id."""

    retried: list[str]
    not_failed: list[str]
    not_found: list[str]


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
