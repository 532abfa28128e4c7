"""Masters of projects: listed, ordered, watched, downloaded, deleted."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, MasterVideo, ProjectAsset
from lens_pipeline.catalog.shots import MOST_SHOTS
from lens_pipeline.derivatives.registry import MASTER, MASTER_POSTER, SCALED
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.web.auth.caller import Caller, CallerDep, MediaCallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import Problem
from lens_pipeline.web.http.filenames import attachment
from lens_pipeline.web.http.streaming import (
    IMMUTABLE,
    REVALIDATE,
    described,
    picture_not_ready,
    stream,
)
from lens_pipeline.web.routes.project_rows import (
    NOT_READY,
    CursorQuery,
    Key,
    LimitQuery,
    Name,
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

router = APIRouter(prefix="/api/projects/{project_id}/master-videos", tags=["masters"])

_VIDEO = "video/mp4"


class NewMaster(Wanted):
    """A master to be made."""

    name: Name
    shots: Annotated[list[str], Field(min_length=1, max_length=MOST_SHOTS)]
    """Ids of assets of the project, in order; one may come more than once."""
    master_id: Key | None = None
    """Makes the request safe to repeat; without one, an id is made up."""


class MasterOut(BaseModel):
    """A master, and where its video stands."""

    master_id: str
    project_id: str
    name: str
    shots: list[str]
    status: State
    waits: str | None
    """What it waits for before it is made."""
    waits_for: list[str]
    """The shots among that, each once."""
    percent: int | None
    progress: str | None
    """How far it is, in words, while it is made."""
    method: str | None
    """How it was joined: copy, partial or encode."""
    duration_seconds: float | None
    width: int | None
    height: int | None
    bytes: int | None
    thumbhash: str | None
    error: str | None
    error_class: str | None
    attempts: int
    run_id: str | None
    dagster_path: str
    """Path of the partition in the Dagster UI."""
    poster_url: str | None
    video_url: str | None
    download_url: str | None
    created_at: dt.datetime | None
    updated_at: dt.datetime | None
    ready_at: dt.datetime | None


class MastersPage(BaseModel):
    """Masters newest first; `next_cursor` asks for the next ones, None: there are none."""

    master_videos: list[MasterOut]
    next_cursor: str | None


@router.get("")
def list_masters(
    project_id: str,
    caller: CallerDep,
    context: ContextDep,
    cursor: CursorQuery = None,
    limit: LimitQuery = 60,
) -> MastersPage:
    """One page of a project's masters, newest first."""
    page = listed_page(context, caller, Kind.MASTER, project_id, cursor, limit)
    return MastersPage(master_videos=_described(context, page.rows), next_cursor=page.next_cursor)


@router.post("", status_code=201, responses={200: {"model": MasterOut}, 409: {"model": Problem}})
def create_master(
    project_id: str, wanted: NewMaster, caller: CallerDep, context: ContextDep, response: Response
) -> MasterOut:
    """Order a master; it is begun at once unless a shot is still to come.

    Asked for again with the same `master_id`, nothing happens: 200 with the one there is.
    """
    require_writable(caller, project_id)
    _require_shots(context, project_id, wanted.shots)
    row_id = wanted.master_id or str(uuid.uuid4())
    values = {"project_id": project_id, "name": wanted.name, "shots_config": wanted.shots}
    listed, added = insert(context, Kind.MASTER, project_id, row_id, values)
    if not added:
        if (_row(listed).name, _shots(listed)) != (wanted.name, wanted.shots):
            raise taken(row_id)
        response.status_code = 200
    elif not MASTER.waits_for(_row(listed)):
        context.queue.submit({MASTER: [row_id]}, "api", owner=project_id)
    return _described(context, [listed])[0]


@router.get("/{master_id}")
def get_master(
    project_id: str, master_id: str, caller: CallerDep, context: ContextDep
) -> MasterOut:
    """One master."""
    listed = visible_row(context, caller, Kind.MASTER, project_id, master_id)
    return _described(context, [listed])[0]


@router.delete("/{master_id}", status_code=204)
def delete_master(project_id: str, master_id: str, caller: CallerDep, context: ContextDep) -> None:
    """Delete a master and its renditions; a run that makes it ends, its files go within minutes."""
    visible_row(context, caller, Kind.MASTER, project_id, master_id)
    renditions = context.pipeline.catalog.delete(Kind.MASTER, master_id)
    context.queue.cancel({MASTER: [master_id], MASTER_POSTER: [master_id], SCALED: renditions})


@router.post("/{master_id}/retry", responses={409: {"model": Problem}})
def retry_master(
    project_id: str, master_id: str, caller: CallerDep, context: ContextDep
) -> MasterOut:
    """Try again at once what failed or was given up on."""
    listed = visible_row(context, caller, Kind.MASTER, project_id, master_id)
    retry(context, master_id, (MASTER, MASTER_POSTER))
    return _described(context, [listed])[0]


@router.head("/{master_id}/video", responses=described(_VIDEO) | NOT_READY)
@router.get("/{master_id}/video", response_class=Response, responses=described(_VIDEO) | NOT_READY)
def master_video(
    project_id: str,
    master_id: str,
    request: Request,
    caller: MediaCallerDep,
    context: ContextDep,
    v: RevisionQuery = None,
) -> Response:
    """The video, or a range of it."""
    _, video = _video(context, caller, project_id, master_id)
    return video_answer(context, request, video, v)


@router.head("/{master_id}/download", responses=described(_VIDEO) | NOT_READY)
@router.get(
    "/{master_id}/download", response_class=Response, responses=described(_VIDEO) | NOT_READY
)
def download_master(
    project_id: str,
    master_id: str,
    request: Request,
    caller: MediaCallerDep,
    context: ContextDep,
) -> Response:
    """The video as a file with the master's name."""
    row, video = _video(context, caller, project_id, master_id)
    disposition = attachment(row.name, f"_{row.id}.mp4")
    return video_answer(context, request, video, None, disposition)


@router.head("/{master_id}/poster", responses=described("image/webp"))
@router.get("/{master_id}/poster", response_class=Response, responses=described("image/webp"))
def master_poster(
    project_id: str,
    master_id: str,
    request: Request,
    caller: MediaCallerDep,
    context: ContextDep,
    v: RevisionQuery = None,
) -> Response:
    """A picture of the master."""
    listed = visible_row(context, caller, Kind.MASTER, project_id, master_id)
    poster = row_statuses(context.pipeline, MASTER_POSTER, [listed.row])[master_id]
    if poster.path is None:
        raise picture_not_ready(poster.state)
    caching = IMMUTABLE if v == poster.revision else REVALIDATE
    return stream(context.pipeline.store, request, poster.path, cache_control=caching)


def _require_shots(context: Context, project_id: str, shots: Sequence[str]) -> None:
    """Raises ApiError 400 that names a shot which the master could never be made of."""
    found = context.pipeline.catalog.project_rows(Kind.SHOT, project_id, set(shots))
    for name in shots:
        listed = found.get(name)
        if listed is None:
            problem = f"shot {name[:200]!r} is no asset of this project"
            raise invalid("shots", problem, "unknown_shot")
        if isinstance(listed.row, ProjectAsset) and listed.row.shot.problem:
            raise invalid("shots", listed.row.shot.problem, "unusable_shot")


def _video(
    context: Context, caller: Caller, project_id: str, master_id: str
) -> tuple[MasterVideo, DerivativeStatus]:
    row = _row(visible_row(context, caller, Kind.MASTER, project_id, master_id))
    return row, row_statuses(context.pipeline, MASTER, [row])[row.id]


def _row(listed: Listed) -> MasterVideo:
    assert isinstance(listed.row, MasterVideo)  # noqa: S101
    return listed.row


def _shots(listed: Listed) -> list[str]:
    return [shot.asset_id for shot in _row(listed).shots]


def _described(context: Context, listed: Sequence[Listed]) -> list[MasterOut]:
    rows = [_row(one) for one in listed]
    made = row_statuses(context.pipeline, MASTER, rows)
    posters = row_statuses(context.pipeline, MASTER_POSTER, rows)
    return [_out(one, made[one.row.id], posters[one.row.id]) for one in listed]


def _out(listed: Listed, made: DerivativeStatus, poster: DerivativeStatus) -> MasterOut:
    row = _row(listed)
    url = f"/api/projects/{row.project_id}/master-videos/{row.id}"
    is_ready = made.state is State.READY
    return MasterOut(
        master_id=row.id,
        project_id=row.project_id,
        name=row.name,
        shots=_shots(listed),
        status=made.state,
        waits=made.waits,
        waits_for=list(dict.fromkeys(shot.asset_id for shot in row.shots if shot.waits)),
        percent=made.progress and made.progress.percent,
        progress=made.progress and made.progress.text,
        method=made.fact("method", str),
        duration_seconds=made.fact("duration_seconds", float),
        width=made.fact("width", int),
        height=made.fact("height", int),
        bytes=made.fact("bytes", int),
        thumbhash=made.fact("thumbhash", str),
        error=made.error,
        error_class=made.error_class,
        attempts=made.attempts,
        run_id=made.run_id,
        dagster_path=f"/assets/{MASTER.asset}?partition={row.id}",
        poster_url=f"{url}/poster?v={poster.revision}" if poster.path else None,
        video_url=f"{url}/video?v={made.revision}" if is_ready else None,
        download_url=f"{url}/download" if is_ready else None,
        created_at=listed.created_at,
        updated_at=listed.changed_at,
        ready_at=made.ready_at,
    )
