"""Renditions of a project's masters: a part of one, or all, at another size."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, ScaledVideo
from lens_pipeline.derivatives.registry import SCALED
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.media.renditions import LARGEST, SMALLEST
from lens_pipeline.web.auth.caller import CallerDep, MediaCallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import Problem
from lens_pipeline.web.http.streaming import described
from lens_pipeline.web.routes.project_rows import (
    NOT_READY,
    CursorQuery,
    Key,
    LimitQuery,
    RevisionQuery,
    Wanted,
    insert,
    invalid,
    listed_page,
    require_writable,
    retry,
    taken,
    video_answer,
    visible_row,
)

router = APIRouter(prefix="/api/projects/{project_id}/scaled-videos", tags=["scaled videos"])

_VIDEO = "video/mp4"
# Longer than any master; a limit at all, so that a number is a number of seconds.
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
    """Makes the request safe to repeat; without one, an id is made up."""

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
    status: State
    waits: str | None
    """What it waits for before it is made."""
    percent: int | None
    progress: str | None
    """How far it is, in words, while it is made."""
    duration_seconds: float | None
    bytes: int | None
    thumbhash: str | None
    error: str | None
    error_class: str | None
    attempts: int
    run_id: str | None
    dagster_path: str
    """Path of the partition in the Dagster UI."""
    video_url: str | None
    created_at: dt.datetime | None
    ready_at: dt.datetime | None


class ScaledPage(BaseModel):
    """Renditions newest first; `next_cursor` asks for the next ones, None: there are none."""

    scaled_videos: list[ScaledOut]
    next_cursor: str | None


@router.get("")
def list_scaled(
    project_id: str,
    caller: CallerDep,
    context: ContextDep,
    cursor: CursorQuery = None,
    limit: LimitQuery = 60,
) -> ScaledPage:
    """One page of the renditions of a project's masters, newest first."""
    page = listed_page(context, caller, Kind.SCALED, project_id, cursor, limit)
    return ScaledPage(scaled_videos=_described(context, page.rows), next_cursor=page.next_cursor)


@router.post("", status_code=201, responses={200: {"model": ScaledOut}, 409: {"model": Problem}})
def create_scaled(
    project_id: str, wanted: NewScaled, caller: CallerDep, context: ContextDep, response: Response
) -> ScaledOut:
    """Order a rendition; it is begun at once if its master is ready, and otherwise after that.

    Asked for again with the same `scaled_id`, nothing happens: 200 with the one there is.
    """
    require_writable(caller, project_id)
    if not context.pipeline.catalog.project_rows(Kind.MASTER, project_id, [wanted.master_id]):
        problem = f"this project has no master {wanted.master_id!r}"
        raise invalid("master_id", problem, "unknown_master")
    row_id = wanted.scaled_id or str(uuid.uuid4())
    values = wanted.model_dump(exclude={"scaled_id"})
    listed, added = insert(context, Kind.SCALED, project_id, row_id, values)
    if not added:
        if any(getattr(listed.row, name) != value for name, value in values.items()):
            raise taken(row_id)
        response.status_code = 200
    elif row_statuses(context.pipeline, SCALED, [listed.row])[row_id].waits is None:
        context.queue.submit({SCALED: [row_id]}, "api", owner=project_id)
    return _described(context, [listed])[0]


@router.get("/{scaled_id}")
def get_scaled(
    project_id: str, scaled_id: str, caller: CallerDep, context: ContextDep
) -> ScaledOut:
    """One rendition."""
    listed = visible_row(context, caller, Kind.SCALED, project_id, scaled_id)
    return _described(context, [listed])[0]


@router.delete("/{scaled_id}", status_code=204)
def delete_scaled(project_id: str, scaled_id: str, caller: CallerDep, context: ContextDep) -> None:
    """Delete a rendition; a run that makes it ends, its file goes within minutes."""
    visible_row(context, caller, Kind.SCALED, project_id, scaled_id)
    context.pipeline.catalog.delete(Kind.SCALED, scaled_id)
    context.queue.cancel({SCALED: [scaled_id]})


@router.post("/{scaled_id}/retry", responses={409: {"model": Problem}})
def retry_scaled(
    project_id: str, scaled_id: str, caller: CallerDep, context: ContextDep
) -> ScaledOut:
    """Try again at once what failed or was given up on."""
    listed = visible_row(context, caller, Kind.SCALED, project_id, scaled_id)
    retry(context, scaled_id, (SCALED,))
    return _described(context, [listed])[0]


@router.head("/{scaled_id}/video", responses=described(_VIDEO) | NOT_READY)
@router.get("/{scaled_id}/video", response_class=Response, responses=described(_VIDEO) | NOT_READY)
def scaled_video(
    project_id: str,
    scaled_id: str,
    request: Request,
    caller: MediaCallerDep,
    context: ContextDep,
    v: RevisionQuery = None,
) -> Response:
    """The video, or a range of it."""
    row = visible_row(context, caller, Kind.SCALED, project_id, scaled_id).row
    return video_answer(context, request, row_statuses(context.pipeline, SCALED, [row])[row.id], v)


def _described(context: Context, listed: Sequence[Listed]) -> list[ScaledOut]:
    made = row_statuses(context.pipeline, SCALED, [one.row for one in listed])
    return [_out(one, made[one.row.id]) for one in listed]


def _out(listed: Listed, made: DerivativeStatus) -> ScaledOut:
    row = listed.row
    assert isinstance(row, ScaledVideo)  # noqa: S101
    url = f"/api/projects/{listed.project_id}/scaled-videos/{row.id}"
    return ScaledOut(
        scaled_id=row.id,
        project_id=listed.project_id,
        master_id=row.master_id,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        width=row.width,
        height=row.height,
        status=made.state,
        waits=made.waits,
        percent=made.progress and made.progress.percent,
        progress=made.progress and made.progress.text,
        duration_seconds=made.fact("duration_seconds", float),
        bytes=made.fact("bytes", int),
        thumbhash=made.fact("thumbhash", str),
        error=made.error,
        error_class=made.error_class,
        attempts=made.attempts,
        run_id=made.run_id,
        dagster_path=f"/assets/{SCALED.asset}?partition={row.id}",
        video_url=f"{url}/video?v={made.revision}" if made.state is State.READY else None,
        created_at=listed.created_at,
        ready_at=made.ready_at,
    )
