"""Inputs, look-ups and answers that the routes of masters, renditions and assets share."""

import unicodedata
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import dagster as dg
from fastapi import Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, Row, ScaledVideo
from lens_pipeline.catalog.status_view.schema import MASTER_WORDS, LegacyStatus
from lens_pipeline.core.ids import KEY_PATTERN, canonical_uuid, key_problem
from lens_pipeline.derivatives import orders
from lens_pipeline.derivatives.holds import Held
from lens_pipeline.derivatives.library import read_cursor, write_cursor
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.errors import InvalidRow
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.web.auth.caller import Caller, CallerDep, caller
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.http.streaming import IMMUTABLE, REVALIDATE, described, stream

_MOST_NAME = 200
_MOST_IDS = 200
_MOST_ORDERS = 20

CursorQuery = Annotated[str | None, Query(max_length=500)]
LimitQuery = Annotated[int, Query(ge=1, le=200)]
IdsQuery = Annotated[
    str | None,
    Query(description="Only these, separated by commas, in their order."),
]
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
    """The body of a request for a new row; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VideoNotReady(BaseModel):
    """There is no video yet."""

    error: Literal["Video not ready"] = "Video not ready"
    status: LegacyStatus


VIDEO: dict[int | str, dict[str, Any]] = described("video/mp4") | {
    400: {"model": VideoNotReady | Problem, "description": "It is not ready, or not valid."}
}
POSTER = described("image/webp")


class Page(NamedTuple):
    """Rows newest first; a cursor unless this is the last page."""

    rows: list[Listed]
    next_cursor: str | None


def _ids(ids: str | None) -> list[str] | None:
    """Those of a query, each once. Raises ApiError 400: they are too many."""
    found = list(dict.fromkeys(filter(None, ids.split(",")))) if ids is not None else None
    if found and len(found) > _MOST_IDS:
        raise invalid("ids", f"at most {_MOST_IDS} ids are answered at once")
    return found


def page_of(kind: Kind) -> Callable[..., Page]:
    """A dependency: one page of a project's rows."""

    def page(
        project_id: str,
        caller: CallerDep,
        context: ContextDep,
        cursor: CursorQuery = None,
        limit: LimitQuery = 60,
        ids: IdsQuery = None,
    ) -> Page:
        """Raises ApiError 403, 400, InvalidCursor."""
        require_covered(caller, project_id)
        return page_rows(context, kind, project_id, cursor, limit, ids)

    return page


def page_rows(
    context: Context,
    kind: Kind,
    project_id: str,
    cursor: str | None,
    limit: int,
    ids: str | None,
    master_ids: str | None = None,
    order_ids: str | None = None,
) -> Page:
    """Raises ApiError 400, InvalidCursor."""
    catalog, wanted = context.pipeline.catalog, _ids(ids)
    masters, of_orders = _ids(master_ids), _ids(order_ids)
    if wanted is not None:
        found = catalog.project_rows(kind, project_id, wanted)
        return Page([found[one] for one in wanted if one in found], None)
    after = read_cursor(cursor) if cursor else None
    rows = catalog.project_page(kind, project_id, after, limit, masters, of_orders)
    return Page(rows, write_cursor(rows[-1].place) if len(rows) == limit else None)


def order_rows(
    context: Context, project_id: str, order_ids: Sequence[str]
) -> list[Listed[ScaledVideo]]:
    """The renditions of these orders. Raises ApiError 400: they are too many."""
    if len(order_ids) > _MOST_ORDERS:
        raise invalid("order_ids", f"at most {_MOST_ORDERS} orders are answered at once")
    catalog, most = context.pipeline.catalog, orders.MOST_FORMATS * orders.MOST_FRAGMENTS
    limit = most * len(order_ids)
    found = catalog.project_page(Kind.SCALED, project_id, None, limit, orders=order_ids)
    if found:
        return found
    # A host's table need not have a column for them.
    ids = [piece for one in order_ids for piece in orders.piece_ids(project_id, one, most)]
    return list(catalog.project_rows(Kind.SCALED, project_id, ids).values())


def row_of(
    kind: Kind, parameter: str, identify: Callable[[Request], Caller] = caller
) -> Callable[..., Listed]:
    """A dependency: the row of the path's `parameter`."""

    def row(
        project_id: str,
        row_id: Annotated[str, Path(alias=parameter)],
        caller: Annotated[Caller, Depends(identify)],
        context: ContextDep,
    ) -> Listed:
        """Raises ApiError 404: there is none that the caller may see."""
        if caller.may_see_project(project_id):
            found = context.pipeline.catalog.project_rows(kind, project_id, [row_id])
            if row_id in found:
                return found[row_id]
        raise not_found(f"{kind} of project {project_id[:200]!r}", row_id)

    return row


def require_writable(caller: Caller, project_id: str) -> None:
    """Raises ApiError 403; 400: the id cannot be part of an object key."""
    require_covered(caller, project_id)
    problem = key_problem("project_id", project_id)
    if problem:
        raise invalid("project_id", problem)


def require_covered(caller: Caller, project_id: str) -> None:
    if not caller.may_see_project(project_id):
        raise ApiError(403, "forbidden", "this token does not cover that project")


def invalid(field: str, problem: str, code: str = "invalid_request") -> ApiError:
    return ApiError(400, code, problem, field=field)


def create(
    context: Context,
    response: Response,
    kind: Kind,
    project_id: str,
    row_id: str | None,
    values: Mapping[str, Any],
    begin: Derivative | None = None,
) -> Listed:
    """The row, which may be there already; `begin` is made of a new one at once.

    Its run is prepared before others see the row: a sensor would ask for a second one.
    Raises ApiError 400; 409: another row has the id.
    """
    catalog, queue = context.pipeline.catalog, context.queue
    row_id = catalog.canonical_id(kind, row_id or str(uuid.uuid4()))
    runs: list[dg.DagsterRun] = []
    try:
        with catalog.inserting(kind, project_id, {row_id: values}) as added:
            if added and begin:
                runs = queue.prepare({begin: [row_id]}, "api", owner=project_id)
    except InvalidRow as error:
        raise invalid("body", str(error)) from None
    except BaseException:
        queue.discard(runs)
        raise
    queue.release(runs)
    found = catalog.project_rows(kind, project_id, [row_id]).get(row_id)
    if found is None or (
        not added and any(_form(getattr(found.row, n)) != _form(v) for n, v in values.items())
    ):
        raise ApiError(409, "id_taken", f"something else has the id {row_id!r} already")
    if not added:
        response.status_code = 200
    return found


def _form(value: object) -> object:
    return (canonical_uuid(value) if isinstance(value, str) else None) or value


def retry(context: Context, row_id: str, derivatives: Iterable[Derivative]) -> None:
    """Raises ApiError 409: nothing has failed."""
    if not context.retry([row_id], derivatives):
        raise ApiError(409, "not_failed", f"nothing of {row_id!r} has failed")


def status_fields(made: DerivativeStatus, held: Held | None) -> dict[str, Any]:
    names = ("waits", "error", "error_class", "attempts", "retry_at", "run_id", "ready_at")
    return {
        "status": made.state,
        "dagster_path": f"/assets/{made.asset}?partition={made.id}",
        "percent": made.progress and made.progress.percent,
        "progress": made.progress and made.progress.text,
        "stage": made.progress and made.progress.stage,
        "seconds_left": made.progress and made.progress.seconds_left,
        "held_by": held and held.by,
        "queue_place": held and held.place,
        "duration_seconds": made.fact("duration_seconds", float),
        "bytes": made.fact("bytes", int),
        "thumbhash": made.fact("thumbhash", str),
        **{name: getattr(made, name) for name in names},
    }


def legacy_status(made: DerivativeStatus) -> LegacyStatus:
    return MASTER_WORDS[made.state.value]


def video_answer(
    context: Context,
    request: Request,
    derivative: Derivative,
    row: Row,
    revision: str | None = None,
    disposition: str | None = None,
) -> Response:
    """The finished video, or 400 with its state."""
    made = row_statuses(context.pipeline, derivative, [row])[row.id]
    if made.state is not State.READY or made.path is None:
        body = VideoNotReady(status=legacy_status(made))
        return Response(body.model_dump_json(), 400, media_type="application/json")
    return stream(
        context.pipeline.store,
        request,
        made.path,
        cache_control=caching(revision, made),
        disposition=disposition,
    )


def caching(revision: str | None, made: DerivativeStatus) -> str:
    """Cache-Control for an address with `revision`: its file never changes."""
    return IMMUTABLE if revision == made.revision else REVALIDATE
