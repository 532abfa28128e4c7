"""Masters of projects."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, MasterVideo
from lens_pipeline.catalog.shots import MOST_SHOTS
from lens_pipeline.catalog.status_view.schema import LegacyStatus
from lens_pipeline.derivatives.holds import Held, Hold, holds
from lens_pipeline.derivatives.registry import MASTER, MASTER_POSTER, SCALED
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.event_log.history import DerivativeStatus, Stage, State
from lens_pipeline.web.auth.caller import CallerDep, media_caller
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import Problem
from lens_pipeline.web.http.filenames import attachment
from lens_pipeline.web.http.streaming import picture_not_ready, stream
from lens_pipeline.web.routes.project_rows import (
    POSTER,
    VIDEO,
    Key,
    Name,
    Page,
    RevisionQuery,
    Wanted,
    caching,
    create,
    invalid,
    legacy_status,
    page_of,
    require_writable,
    retry,
    row_of,
    status_fields,
    video_answer,
)

router = APIRouter(prefix="/api/projects/{project_id}/master-videos", tags=["masters"])

_MOST_SAME = 10

PageDep = Annotated[Page, Depends(page_of(Kind.MASTER))]
MasterDep = Annotated[Listed[MasterVideo], Depends(row_of(Kind.MASTER, "master_id"))]
MediaDep = Annotated[Listed[MasterVideo], Depends(row_of(Kind.MASTER, "master_id", media_caller))]


class NewMaster(Wanted):
    """A master to be made."""

    name: Name
    shots: Annotated[list[str], Field(min_length=1, max_length=MOST_SHOTS)]
    """Ids of assets of the project, in order; one may come more than once."""
    quiet: list[str] = Field(default_factory=list, max_length=MOST_SHOTS)
    """Those of `shots` whose sound keeps its level."""
    master_id: Key | None = None
    """Makes the request safe to repeat."""


class MasterOut(BaseModel):
    """A master, and where its video stands."""

    master_id: str
    project_id: str
    name: str
    shots: list[str]
    quiet: list[str]
    """Those of `shots` whose sound keeps its level."""
    status: State
    legacy_status: LegacyStatus
    waits: str | None
    waits_for: list[str]
    """Shots that are not ready, each once."""
    faulty_shots: list[str]
    """Shots that `error` names, each once."""
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
    renditions: int
    """Their number."""
    method: str | None
    """copy, partial or encode"""
    duration_seconds: float | None
    width: int | None
    height: int | None
    bytes: int | None
    thumbhash: str | None
    error: str | None
    error_class: str | None
    attempts: int
    retry_at: dt.datetime | None
    run_id: str | None
    dagster_path: str
    """Of the partition in the Dagster UI."""
    poster_url: str | None
    video_path: str | None
    """Object key in the store."""
    video_url: str | None
    download_url: str | None
    created_at: dt.datetime | None
    updated_at: dt.datetime | None
    ready_at: dt.datetime | None


class NamedMaster(MasterOut):
    """A master that was given its name."""

    same_name: list[str]
    """Ids of other masters of the project with this name, ten at most."""


class NewName(Wanted):
    """Another name for a master."""

    name: Name


class MastersPage(BaseModel):
    """Masters newest first; `next_cursor` asks for the next ones, None: there are none."""

    master_videos: list[MasterOut]
    next_cursor: str | None


@router.get("")
def list_masters(page: PageDep, context: ContextDep) -> MastersPage:
    """One page of a project's masters, newest first."""
    return MastersPage(master_videos=_described(context, page.rows), next_cursor=page.next_cursor)


@router.post("", status_code=201, responses={200: {"model": NamedMaster}, 409: {"model": Problem}})
def create_master(
    project_id: str, wanted: NewMaster, caller: CallerDep, context: ContextDep, response: Response
) -> NamedMaster:
    """Order a master; it is begun at once unless a shot is still to come.

    Asked for again with the same `master_id`, nothing happens: 200 with the one there is.
    """
    require_writable(caller, project_id)
    begin = MASTER if _shots_are_there(context, project_id, wanted.shots) else None
    shots = [
        {"asset_id": name, "quiet": True} if name in wanted.quiet else name for name in wanted.shots
    ]
    values = {"name": wanted.name, "shots_config": shots}
    master_id = wanted.master_id
    listed = create(context, response, Kind.MASTER, project_id, master_id, values, begin)
    return _named(context, listed)


@router.get("/{master_id}")
def get_master(listed: MasterDep, context: ContextDep) -> MasterOut:
    """One master."""
    return _described(context, [listed])[0]


@router.patch("/{master_id}")
def rename_master(listed: MasterDep, wanted: NewName, context: ContextDep) -> NamedMaster:
    """Rename a master; a name may be used twice, and `same_name` says where."""
    row = listed.row
    context.pipeline.catalog.rename_master(listed.project_id, row.id, wanted.name)
    return _named(context, replace(listed, row=replace(row, name=wanted.name)))


@router.delete("/{master_id}", status_code=204)
def delete_master(listed: MasterDep, context: ContextDep) -> None:
    """Delete a master and its renditions; a run that makes it ends, its files go within minutes."""
    master_id = listed.row.id
    renditions = context.pipeline.catalog.delete(Kind.MASTER, master_id)
    context.queue.cancel({MASTER: [master_id], MASTER_POSTER: [master_id], SCALED: renditions})


@router.post("/{master_id}/retry", responses={409: {"model": Problem}})
def retry_master(listed: MasterDep, context: ContextDep) -> MasterOut:
    """Try again at once what failed or was given up on."""
    retry(context, listed.row.id, (MASTER, MASTER_POSTER))
    return _described(context, [listed])[0]


@router.head("/{master_id}/video", responses=VIDEO)
@router.get("/{master_id}/video", response_class=Response, responses=VIDEO)
def master_video(
    listed: MediaDep, request: Request, context: ContextDep, v: RevisionQuery = None
) -> Response:
    """The video, or a range of it."""
    return video_answer(context, request, MASTER, listed.row, v)


@router.head("/{master_id}/download", responses=VIDEO)
@router.get("/{master_id}/download", response_class=Response, responses=VIDEO)
def download_master(listed: MediaDep, request: Request, context: ContextDep) -> Response:
    """The video as a file with the master's name."""
    disposition = attachment(listed.row.name, f"_{listed.row.id}.mp4")
    return video_answer(context, request, MASTER, listed.row, disposition=disposition)


@router.head("/{master_id}/poster", responses=POSTER)
@router.get("/{master_id}/poster", response_class=Response, responses=POSTER)
def master_poster(
    listed: MediaDep, request: Request, context: ContextDep, v: RevisionQuery = None
) -> Response:
    """A picture of the master."""
    poster = row_statuses(context.pipeline, MASTER_POSTER, [listed.row])[listed.row.id]
    if poster.path is None:
        raise picture_not_ready(poster.state)
    control = caching(v, poster)
    return stream(context.pipeline.store, request, poster.path, cache_control=control)


def _shots_are_there(context: Context, project_id: str, shots: Sequence[str]) -> bool:
    """False: one is still to come. Raises ApiError 400 with a shot that no master can have."""
    found = context.pipeline.catalog.project_rows(Kind.SHOT, project_id, set(shots))
    for name in shots:
        if name not in found:
            problem = f"shot {name[:200]!r} is no asset of this project"
            raise invalid("shots", problem, "unknown_shot")
        if found[name].row.shot.problem:
            raise invalid("shots", found[name].row.shot.problem, "unusable_shot")
    return not any(listed.row.shot.waits for listed in found.values())


def _named(context: Context, listed: Listed[MasterVideo]) -> NamedMaster:
    (master,) = _described(context, [listed])
    catalog, row = context.pipeline.catalog, listed.row
    found = catalog.masters_named(listed.project_id, row.name, _MOST_SAME + 1)
    others = [master_id for master_id in found if master_id != row.id]
    return NamedMaster(**master.model_dump(), same_name=others[:_MOST_SAME])


def _described(context: Context, listed: Sequence[Listed[MasterVideo]]) -> list[MasterOut]:
    rows = [one.row for one in listed]
    made = row_statuses(context.pipeline, MASTER, rows)
    posters = row_statuses(context.pipeline, MASTER_POSTER, rows)
    held = holds(context.pipeline, MASTER, made.values())
    renditions = context.pipeline.catalog.rendition_counts([row.id for row in rows])
    return [
        _out(
            one,
            made[one.row.id],
            posters[one.row.id],
            held.get(one.row.id),
            renditions.get(one.row.id, 0),
        )
        for one in listed
    ]


def _out(
    listed: Listed[MasterVideo],
    made: DerivativeStatus,
    poster: DerivativeStatus,
    held: Held | None,
    renditions: int,
) -> MasterOut:
    row = listed.row
    error = made.error or ""
    shots = dict.fromkeys(row.shots_config)
    url = f"/api/projects/{row.project_id}/master-videos/{row.id}"
    is_ready = made.state is State.READY
    return MasterOut(
        master_id=row.id,
        project_id=row.project_id,
        name=row.name,
        legacy_status=legacy_status(made),
        shots=row.shots_config,
        quiet=[shot.asset_id for shot in row.shots if shot.quiet],
        waits_for=list(dict.fromkeys(shot.asset_id for shot in row.shots if shot.waits)),
        renditions=renditions,
        faulty_shots=[shot for shot in shots if f"shot {shot!r}" in error],
        method=made.fact("method", str),
        width=made.fact("width", int),
        height=made.fact("height", int),
        poster_url=f"{url}/poster?v={poster.revision}" if poster.path else None,
        video_path=made.path,
        video_url=f"{url}/video?v={made.revision}" if is_ready else None,
        download_url=f"{url}/download" if is_ready else None,
        created_at=listed.created_at,
        updated_at=listed.changed_at,
        **status_fields(made, held),
    )
