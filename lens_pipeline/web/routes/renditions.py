"""Renditions of masters: all of a master or a part, at another size."""

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, model_validator

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Fill, Kind, ScaledVideo
from lens_pipeline.derivatives.holds import Held, Hold, holds
from lens_pipeline.derivatives.orders import name_of
from lens_pipeline.derivatives.registry import MASTER, SCALED
from lens_pipeline.derivatives.status import assess, row_statuses
from lens_pipeline.event_log.history import DerivativeStatus, Stage, State
from lens_pipeline.media.renditions.plan import LARGEST, SMALLEST
from lens_pipeline.web.auth.caller import CallerDep, media_caller
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import Problem
from lens_pipeline.web.routes.project_rows import (
    VIDEO,
    CursorQuery,
    IdsQuery,
    Key,
    LimitQuery,
    Page,
    RevisionQuery,
    Wanted,
    create,
    invalid,
    page_rows,
    require_covered,
    require_writable,
    retry,
    row_of,
    status_fields,
    video_answer,
)

router = APIRouter(prefix="/api/projects/{project_id}/scaled-videos", tags=["scaled videos"])


def _page(
    project_id: str,
    caller: CallerDep,
    context: ContextDep,
    cursor: CursorQuery = None,
    limit: LimitQuery = 60,
    ids: IdsQuery = None,
    master_ids: IdsQuery = None,
    order_ids: IdsQuery = None,
) -> Page:
    """Raises ApiError 403, 400, InvalidCursor."""
    require_covered(caller, project_id)
    return page_rows(context, Kind.SCALED, project_id, cursor, limit, ids, master_ids, order_ids)


PageDep = Annotated[Page, Depends(_page)]
ScaledDep = Annotated[Listed[ScaledVideo], Depends(row_of(Kind.SCALED, "scaled_id"))]
MediaDep = Annotated[Listed[ScaledVideo], Depends(row_of(Kind.SCALED, "scaled_id", media_caller))]

# Longer than any master.
_MOST_SECONDS = 1_000_000
Seconds = Annotated[float, Field(ge=0, le=_MOST_SECONDS, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=SMALLEST, le=LARGEST)]


class NewScaled(Wanted):
    """A rendition to be made."""

    master_id: Key
    width: Pixels
    height: Pixels
    start_seconds: Seconds | None = None
    """None: from the beginning of the master."""
    end_seconds: Seconds | None = None
    """None: to its end."""
    scaled_id: Key | None = None
    """Makes the request safe to repeat."""

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.end_seconds is not None and self.end_seconds <= (self.start_seconds or 0):
            raise ValueError("end_seconds must be after start_seconds")
        return self


class ScaledOut(BaseModel):
    """A rendition, and where its video stands."""

    scaled_id: str
    project_id: str
    master_id: str
    start_seconds: float | None
    end_seconds: float | None
    width: int
    height: int
    format: str
    """A name such as 9:16, or the size."""
    fill: Fill
    """What is where the master's shape leaves it free."""
    focus: list[float] | None
    """What a crop keeps, as shares of width and height; None: the centre."""
    order_id: str | None
    """Of the order that it is a piece of."""
    status: State
    waits: str | None
    percent: int | None
    progress: str | None
    """In English; `stage` and `seconds_left` are for other languages."""
    stage: Stage | None
    seconds_left: int | None
    """By the pace until now; None: not known."""
    held_by: Hold | None
    """Why it is not begun; None: it is, or is about to be."""
    queue_place: int | None
    """Of its run; 1: it is next."""
    duration_seconds: float | None
    bytes: int | None
    thumbhash: str | None
    error: str | None
    error_class: str | None
    attempts: int
    retry_at: dt.datetime | None
    run_id: str | None
    dagster_path: str
    """Of the partition in the Dagster UI."""
    video_url: str | None
    created_at: dt.datetime | None
    ready_at: dt.datetime | None


class ScaledPage(BaseModel):
    """Renditions newest first; `next_cursor` asks for the next ones, None: there are none."""

    scaled_videos: list[ScaledOut]
    next_cursor: str | None


@router.get("")
def list_scaled(page: PageDep, context: ContextDep) -> ScaledPage:
    """One page of the renditions of a project's masters, newest first."""
    return ScaledPage(scaled_videos=described(context, page.rows), next_cursor=page.next_cursor)


@router.post("", status_code=201, responses={200: {"model": ScaledOut}, 409: {"model": Problem}})
def create_scaled(
    project_id: str, wanted: NewScaled, caller: CallerDep, context: ContextDep, response: Response
) -> ScaledOut:
    """Order a rendition; it is begun at once if its master is ready, and otherwise after that.

    Asked for again with the same `scaled_id`, nothing happens: 200 with the one there is.
    """
    require_writable(caller, project_id)
    masters = context.pipeline.catalog.project_rows(Kind.MASTER, project_id, [wanted.master_id])
    if not masters:
        problem = f"this project has no master {wanted.master_id!r}"
        raise invalid("master_id", problem, "unknown_master")
    values = wanted.model_dump(exclude={"scaled_id"})
    rows = [master.row for master in masters.values()]
    is_made = all(s.state is State.READY for s in assess(context.pipeline, MASTER, rows))
    begin = SCALED if is_made else None
    scaled_id = wanted.scaled_id
    listed = create(context, response, Kind.SCALED, project_id, scaled_id, values, begin)
    return described(context, [listed])[0]


@router.get("/{scaled_id}")
def get_scaled(listed: ScaledDep, context: ContextDep) -> ScaledOut:
    """One rendition."""
    return described(context, [listed])[0]


@router.delete("/{scaled_id}", status_code=204)
def delete_scaled(listed: ScaledDep, context: ContextDep) -> None:
    """Delete a rendition; a run of nothing else ends, its file goes within minutes."""
    context.pipeline.catalog.delete(Kind.SCALED, listed.row.id)
    context.queue.cancel({SCALED: [listed.row.id]})


@router.post("/{scaled_id}/retry", responses={409: {"model": Problem}})
def retry_scaled(listed: ScaledDep, context: ContextDep) -> ScaledOut:
    """Try again at once what failed or was given up on."""
    retry(context, listed.row.id, (SCALED,))
    return described(context, [listed])[0]


@router.head("/{scaled_id}/video", responses=VIDEO)
@router.get("/{scaled_id}/video", response_class=Response, responses=VIDEO)
def scaled_video(
    listed: MediaDep, request: Request, context: ContextDep, v: RevisionQuery = None
) -> Response:
    """The video, or a range of it."""
    return video_answer(context, request, SCALED, listed.row, v)


def described(context: Context, listed: Sequence[Listed[ScaledVideo]]) -> list[ScaledOut]:
    made = row_statuses(context.pipeline, SCALED, [one.row for one in listed])
    held = holds(context.pipeline, SCALED, made.values())
    return [_out(one, made[one.row.id], held.get(one.row.id)) for one in listed]


def _out(listed: Listed[ScaledVideo], made: DerivativeStatus, held: Held | None) -> ScaledOut:
    row = listed.row
    url = f"/api/projects/{listed.project_id}/scaled-videos/{row.id}"
    return ScaledOut(
        scaled_id=row.id,
        project_id=listed.project_id,
        master_id=row.master_id,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        width=row.width,
        height=row.height,
        format=name_of(row.width, row.height),
        fill=row.fill or Fill.BLACK,
        focus=list(row.focus) if row.focus else None,
        order_id=row.order_id,
        video_url=f"{url}/video?v={made.revision}" if made.state is State.READY else None,
        created_at=listed.created_at,
        **status_fields(made, held),
    )
