"""What masters, renditions and assets of projects have in common."""

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.ids import KEY_PATTERN, key_problem
from lens_pipeline.derivatives.library import read_cursor, write_cursor
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.errors import InvalidRow
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.context import Context
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.http.streaming import IMMUTABLE, REVALIDATE, stream
from lens_pipeline.web.routes.retry import try_again

_MOST_NAME = 200

CursorQuery = Annotated[str | None, Query(max_length=500)]
LimitQuery = Annotated[int, Query(ge=1, le=200)]
# In addresses that this app gives out: what is there may be kept for ever.
RevisionQuery = Annotated[str | None, Query(max_length=100)]


def _is_key(value: str) -> str:
    problem = key_problem("it", value)
    if problem:
        raise ValueError(problem)
    return value


def _is_name(value: str) -> str:
    name = value.strip()
    if not 1 <= len(name) <= _MOST_NAME:
        raise ValueError(f"a name has 1 to {_MOST_NAME} characters")
    if any(unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"} for one in name):
        raise ValueError("a name is one line, without control characters")
    if all(unicodedata.category(one) in {"Cf", "Zs"} for one in name):
        raise ValueError("a name has something to see")
    return name


Key = Annotated[str, Field(pattern=f"^{KEY_PATTERN.pattern}$"), AfterValidator(_is_key)]
Name = Annotated[str, AfterValidator(_is_name)]


class Wanted(BaseModel):
    """What people ask for; a field that there is not is a mistake of theirs."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VideoNotReady(BaseModel):
    """There is no video yet."""

    error: Literal["Video not ready"] = "Video not ready"
    status: State


# What an endpoint that serves a video answers while there is none.
NOT_READY: dict[int | str, dict[str, Any]] = {
    400: {"model": VideoNotReady | Problem, "description": "It is not ready, or not valid."}
}


class Page(NamedTuple):
    """Rows newest first, and how to ask for the next ones (None: these were the last)."""

    rows: list[Listed]
    next_cursor: str | None


def listed_page(
    context: Context, caller: Caller, kind: Kind, project_id: str, cursor: str | None, limit: int
) -> Page:
    """Raises ApiError 403: the project is somebody else's. Raises InvalidCursor."""
    if not caller.may_see_project(project_id):
        raise ApiError(403, "forbidden", "this token does not cover that project")
    after = read_cursor(cursor) if cursor else None
    rows = context.pipeline.catalog.project_page(kind, project_id, after, limit)
    return Page(rows, write_cursor(rows[-1].place) if len(rows) == limit else None)


def visible_row(
    context: Context, caller: Caller, kind: Kind, project_id: str, row_id: str
) -> Listed:
    """Raises ApiError 404 if there is none that the caller may see."""
    if caller.may_see_project(project_id):
        found = context.pipeline.catalog.project_rows(kind, project_id, [row_id])
        if row_id in found:
            return found[row_id]
    raise not_found(f"{kind} of project {project_id[:200]!r}", row_id)


def require_writable(caller: Caller, project_id: str) -> None:
    """Raises ApiError: the project is somebody else's, or its id could be in no object key."""
    if not caller.may_see_project(project_id):
        raise ApiError(403, "forbidden", "this token does not cover that project")
    problem = key_problem("project_id", project_id)
    if problem:
        raise invalid("project_id", problem)


def invalid(field: str, problem: str, code: str = "invalid_request") -> ApiError:
    return ApiError(400, code, problem, field=field)


def insert(
    context: Context, kind: Kind, project_id: str, row_id: str, values: Mapping[str, Any]
) -> tuple[Listed, bool]:
    """The row with this id, and whether it was added now rather than before.

    Raises ApiError 409: something else has the id.
    """
    catalog = context.pipeline.catalog
    try:
        added = catalog.insert(kind, row_id, values)
    except InvalidRow as error:
        raise invalid("body", str(error)) from None
    found = catalog.project_rows(kind, project_id, [row_id]).get(row_id)
    if found is None:
        raise taken(row_id)
    return found, added


def taken(row_id: str) -> ApiError:
    return ApiError(409, "id_taken", f"something else has the id {row_id!r} already")


def retry(context: Context, row_id: str, derivatives: Iterable[Derivative]) -> None:
    """Forget what failed and start anew. Raises ApiError 409: nothing has failed."""
    if not try_again(context, row_id, derivatives):
        raise ApiError(409, "not_failed", f"nothing of {row_id!r} has failed")


def video_answer(
    context: Context,
    request: Request,
    video: DerivativeStatus,
    revision: str | None,
    disposition: str | None = None,
) -> Response:
    """The finished video; or what is said until then."""
    if video.state is not State.READY or video.path is None:
        body = VideoNotReady(status=video.state)
        return Response(body.model_dump_json(), 400, media_type="application/json")
    return stream(
        context.pipeline.store,
        request,
        video.path,
        cache_control=IMMUTABLE if revision == video.revision else REVALIDATE,
        disposition=disposition,
    )
