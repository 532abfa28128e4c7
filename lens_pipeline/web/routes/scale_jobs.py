"""Orders of renditions as jobs, at the addresses of the workers that this project replaces.

A job is an order (`routes/orders.py`) and has its id.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, ScaledVideo
from lens_pipeline.derivatives.orders import sequences
from lens_pipeline.derivatives.registry import SCALED
from lens_pipeline.event_log.history import State
from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.routes.masters import MasterDep
from lens_pipeline.web.routes.orders import NewOrder, place_order
from lens_pipeline.web.routes.project_rows import order_rows, require_writable
from lens_pipeline.web.routes.renditions import ScaledOut, described

router = APIRouter(prefix="/api/projects/{project_id}", tags=["scale jobs"])


class NewJob(BaseModel):
    """What the old pages send; fields that they add are of no effect."""

    formats: list[str]
    """Names or sizes, as an order has them."""
    count: Annotated[int, Field(ge=0)] | None = None
    """Fragments of each format; 0, 1 or None: the whole film in each."""


class JobState(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class JobVideo(BaseModel):
    """One video of a job."""

    scaled_id: str
    format: str
    sequence: int
    """1 for the first of its format."""
    status: JobState
    error: str | None
    video_url: str | None
    """None: it is not ready."""


class JobOut(BaseModel):
    """A job, and how far it is."""

    job_id: str
    master_id: str
    status: JobState
    """failed: all have ended, and at least one has failed for good."""
    progress: int
    """Percent of the whole job."""
    total: int
    completed: int
    failed: int
    videos: list[JobVideo]


def _job_rows(
    project_id: str, job_id: str, caller: CallerDep, context: ContextDep
) -> Sequence[Listed[ScaledVideo]]:
    """Raises ApiError 404: there is none that the caller may see."""
    if caller.may_see_project(project_id):
        rows = order_rows(context, project_id, [job_id])
        if rows:
            return rows
    raise not_found(f"scale job of project {project_id[:200]!r}", job_id)


JobDep = Annotated[Sequence[Listed[ScaledVideo]], Depends(_job_rows)]


@router.post("/master-videos/{master_id}/scale", status_code=202)
def create_job(listed: MasterDep, wanted: NewJob, caller: CallerDep, context: ContextDep) -> JobOut:
    """Order a film in several formats, whole or as fragments."""
    require_writable(caller, listed.project_id)
    count = wanted.count if wanted.count and wanted.count > 1 else None
    order, _ = place_order(context, listed, NewOrder(formats=wanted.formats, count=count))
    return _job(order.order_id, order.scaled_videos)


@router.get("/scale-jobs/{job_id}")
def get_job(job_id: str, rows: JobDep, context: ContextDep) -> JobOut:
    """How far a job is, and its videos."""
    return _described(context, job_id, rows)


@router.post("/scale-jobs/{job_id}/retry", responses={409: {"model": Problem}})
def retry_job(job_id: str, rows: JobDep, context: ContextDep) -> JobOut:
    """Try again at once what failed or was given up on."""
    if not context.retry([listed.row.id for listed in rows], (SCALED,)):
        raise ApiError(409, "not_failed", f"nothing of {job_id!r} has failed")
    return _described(context, job_id, rows)


@router.delete("/scale-jobs/{job_id}", status_code=204)
def delete_job(rows: JobDep, context: ContextDep) -> None:
    """Delete all videos of a job; a run of nothing else ends, their files go within minutes."""
    ids = [listed.row.id for listed in rows]
    for scaled_id in ids:
        context.pipeline.catalog.delete(Kind.SCALED, scaled_id)
    context.queue.cancel({SCALED: ids})


def _described(context: Context, job_id: str, rows: Sequence[Listed[ScaledVideo]]) -> JobOut:
    return _job(job_id, described(context, rows))


def _job(job_id: str, pieces: Sequence[ScaledOut]) -> JobOut:
    numbers = sequences((one.scaled_id, one.format, one.start_seconds) for one in pieces)
    pieces = sorted(
        pieces, key=lambda one: (one.start_seconds or 0.0, numbers[one.scaled_id], one.format)
    )
    ready, dead = (
        sum(piece.status is state for piece in pieces) for state in (State.READY, State.DEAD)
    )
    status = JobState.PROCESSING
    if ready + dead == len(pieces):
        status = JobState.FAILED if dead else JobState.COMPLETED
    elif not ready + dead and all(_state(piece) is JobState.QUEUED for piece in pieces):
        status = JobState.QUEUED
    return JobOut(
        job_id=job_id,
        master_id=pieces[0].master_id,
        status=status,
        progress=percent_of(pieces),
        total=len(pieces),
        completed=ready,
        failed=dead,
        videos=[
            JobVideo(
                scaled_id=piece.scaled_id,
                format=piece.format,
                sequence=numbers[piece.scaled_id],
                status=_state(piece),
                error=piece.error,
                video_url=piece.video_url,
            )
            for piece in pieces
        ],
    )


def percent_of(pieces: Sequence[ScaledOut]) -> int:
    """A piece has the percent of its run, which counts what is ready, too."""
    others = [piece.percent or 0 for piece in pieces if piece.status is not State.READY]
    return max(100 - 100 * len(others) // len(pieces), min(others, default=100))


def _state(piece: ScaledOut) -> JobState:
    if piece.status is State.READY:
        return JobState.COMPLETED
    if piece.status is State.DEAD:
        return JobState.FAILED
    is_begun = piece.status is not State.NONE and piece.held_by is None
    return JobState.PROCESSING if is_begun else JobState.QUEUED
