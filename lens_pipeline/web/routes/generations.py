"""Reading generations: what there is, and what became of it."""

import datetime as dt
import re
from collections.abc import Container
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, BeforeValidator

from lens_pipeline.catalog.errors import RowInUse
from lens_pipeline.catalog.generations import ListedGeneration, Place, Selection
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.derivatives import library
from lens_pipeline.derivatives.originals import ExtraFile, extra_files, recorded_facts
from lens_pipeline.derivatives.registry import CLIP, PLAYABLE, primary
from lens_pipeline.event_log.history import State
from lens_pipeline.web.auth.caller import Caller, CallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found

router = APIRouter(tags=["generations"])

_MOST_ON_PAGE = 200
_MOST_WORDS = 200


class GenerationType(StrEnum):
    """What a generation is."""

    PHOTO = "photo"
    VIDEO = "video"


class PictureSize(BaseModel):
    """The preview or poster in another size."""

    url: str
    path: str
    width: int
    height: int
    bytes: int


class GenerationOut(BaseModel):
    """A generation, and where its preview (photo) or poster (video) stands."""

    id: str
    user_id: str
    title: str | None
    """For people: LENS_TITLE_COLUMN, or the name of its file; None: it has none."""
    type: GenerationType
    generation_status: str
    """What the application's own row says."""
    status: State
    """Of the derivative, from run metadata."""
    path: str | None
    """Object key of the derivative in the store."""
    picture_url: str | None
    """Where this app serves the derivative; None unless it is ready."""
    clip_url: str | None
    """Where this app serves the hover clip of a video; None unless it is ready."""
    playable_url: str | None
    """Where this app serves a copy that all browsers play; None: there is none, as most videos need
    none."""
    file_url: str | None
    """Where this app serves the generation itself; None unless it is finished."""
    width: int | None
    height: int | None
    duration: float | None
    """Seconds of a video whose poster is ready."""
    sizes: list[PictureSize]
    """Others of LENS_PREVIEW_SIZES, the smallest first."""
    thumbhash: str | None
    error: str | None
    error_class: str | None
    attempts: int
    retry_at: dt.datetime | None
    """When a failed one is tried again; None: with the next backfill."""
    run_id: str | None
    dagster_path: str
    """Path of the partition in the Dagster UI."""
    created_at: dt.datetime | None
    updated_at: dt.datetime | None
    ready_at: dt.datetime | None


class ExtraFileOut(BaseModel):
    """A further result of the generation's task."""

    n: int
    """Its place among the results, from 2."""
    file_url: str
    """Where this app serves it."""
    path: str | None
    """Object key in the store; None: it is not kept yet, or could not be."""
    content_type: str | None
    bytes: int | None
    error: str | None
    """Why it could not be kept."""


class CredentialsOut(BaseModel):
    """What the content credentials (C2PA) of the generation's file say."""

    state: str
    """`valid`; `trusted`, by a list of certificates; `invalid`; `unreadable`."""
    generator: str | None = None
    """What wrote them."""
    title: str | None = None
    source_types: list[str] = []
    """IPTC's terms of how it, and what it is made from, came to be."""
    signer: str | None = None
    issuer: str | None = None
    """Of the signer's certificate."""
    signed_at: str | None = None
    problems: list[str] = []
    """Why they are not valid, as codes of C2PA."""


class FileFacts(BaseModel):
    """What is recorded of the photo or video itself."""

    content_type: str | None
    bytes: int | None
    width: int | None
    height: int | None
    duration_seconds: float | None


class GenerationDetail(GenerationOut):
    """A generation, its file, and all results of its task."""

    file: FileFacts
    finished_at: dt.datetime | None
    all_attempts: int
    """As `attempts`, with those before a retry."""
    digital_source_type: str | None
    """IPTC's term that the preview or poster has in its XMP."""
    c2pa: CredentialsOut | None = None
    """Only there if the file has content credentials."""
    extra_files: list[ExtraFileOut] = []
    """What the provider's task made besides; only there if it had several results."""


class GenerationsPage(BaseModel):
    """Generations newest first; `next_cursor` asks for the next ones, None: there are none."""

    generations: list[GenerationOut]
    next_cursor: str | None


def _is_written_out(value: object) -> object:
    """Pydantic takes numbers for seconds since 1970."""
    if not re.match(r"\d{4}-", str(value)):
        raise ValueError("a date with a time and its zone, for example 2026-03-20T00:00:00Z")
    return value


@router.get("/api/generations")
def list_generations(
    caller: CallerDep,
    context: ContextDep,
    user_id: str | None = None,
    type: GenerationType | None = None,  # noqa: A002
    status: State | None = None,
    q: Annotated[str, Query(max_length=_MOST_WORDS)] = "",
    before: Annotated[AwareDatetime, BeforeValidator(_is_written_out)] | None = None,
    ids: str | None = None,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_ON_PAGE)] = 60,
) -> GenerationsPage:
    """One page of generations, newest first.

    With `q`, those whose title or file name has these words, or whose id begins with them. With
    `q` or `status`, a page may have fewer than `limit` entries and a cursor all the same.
    `before`: only those that changed before that time.
    `ids`: only those of up to 200 ids, with commas between them; others, and those that the caller
    may not see, are left out. There is one page of them.
    """
    wanted = _wanted(ids, cursor) if ids is not None else None
    selection = Selection(
        user_id=_visible_user(caller, user_id),
        kind=Kind(type.value) if type else None,
        words=_words(q),
        ids=wanted,
    )
    if before is not None and cursor is None:
        cursor = library.write_cursor(Place(before, ""))
    page = library.page(
        context.pipeline, selection, status, cursor, limit if wanted is None else _MOST_ON_PAGE
    )
    return GenerationsPage(
        generations=shown(context, *page.entries),
        next_cursor=page.cursor if wanted is None else None,
    )


def _wanted(ids: str, cursor: str | None) -> frozenset[str]:
    """Raises ApiError 400."""
    wanted = frozenset(ids.split(","))
    if len(wanted) > _MOST_ON_PAGE:
        problem = f"at most {_MOST_ON_PAGE} ids are answered at once"
        raise ApiError(400, "invalid_request", problem, field="ids")
    if cursor is not None:
        raise ApiError(400, "invalid_request", "they have no next page", field="ids")
    return wanted


@router.get("/api/generations/{generation_id}", response_model_exclude_unset=True)
def get_generation(generation_id: str, caller: CallerDep, context: ContextDep) -> GenerationDetail:
    """One generation, with the further results of its task."""
    entry = visible_entry(context, caller, generation_id)
    extra = [
        ExtraFileOut(
            n=one.n,
            file_url=f"/api/generations/{entry.row.id}/file?n={one.n}",
            path=one.path,
            content_type=one.content_type,
            bytes=one.bytes,
            error=one.error,
        )
        for one in _extra_files(context, entry.row)
    ]
    more: dict[str, Any] = {"extra_files": extra} if extra else {}
    if credentials := entry.status.fact("c2pa", dict):
        more["c2pa"] = credentials
    (generation,) = shown(context, entry)
    detail = generation.model_dump() | _file_facts(context, entry) | more
    return GenerationDetail.model_validate(detail)


def _file_facts(context: Context, entry: library.Entry) -> dict[str, Any]:
    """From the record of the original, else from that of its preview or poster."""
    row, made = entry.row.generation(), entry.status
    recorded = recorded_facts(context.pipeline, row) if entry.row.is_finished else {}
    facts = {
        "bytes": made.fact("source_bytes", int),
        "duration_seconds": made.fact("duration_seconds", float),
        **recorded,
    }
    return {
        "file": {name: facts.get(name) for name in FileFacts.model_fields},
        "finished_at": recorded.get("finished_at", row.finished_at)
        if entry.row.is_finished
        else None,
        "all_attempts": made.all_attempts,
        "digital_source_type": made.fact("digital_source_type", str),
    }


@router.delete(
    "/api/generations/{generation_id}", status_code=204, responses={409: {"model": Problem}}
)
def delete_generation(generation_id: str, caller: CallerDep, context: ContextDep) -> None:
    """Delete its row; what was made of it, and its original, go as of any row that is gone.

    A file that was added stays in the store: its row named it.
    """
    entry = visible_entry(context, caller, generation_id)
    if not context.pipeline.settings.deletion:
        raise ApiError(403, "deletion_off", "nothing is deleted here: LENS_DELETION is not set")
    try:
        context.pipeline.catalog.delete_generation(entry.row.id)
    except RowInUse as error:
        raise ApiError(409, "in_use", f"{generation_id} is in use: {error}") from None


def _extra_files(context: Context, row: ListedGeneration) -> list[ExtraFile]:
    return extra_files(context.pipeline, row.kind, [row.id]).get(row.id, [])


def visible_entry(context: Context, caller: Caller, generation_id: str) -> library.Entry:
    """Raises ApiError 404: there is none that the caller may see."""
    entry = library.find(context.pipeline, generation_id)
    if entry is None or not caller.may_see_user(entry.row.user_id):
        raise not_found("generation", generation_id)
    return entry


def shown(context: Context, *entries: library.Entry) -> list[GenerationOut]:
    """In a constant number of queries."""
    clips, copies = (library.stored_ids(context.pipeline, d, entries) for d in (CLIP, PLAYABLE))
    return [_shown(entry, clips, copies) for entry in entries]


def _shown(entry: library.Entry, clips: Container[str], copies: Container[str]) -> GenerationOut:
    """Ids of the videos that have a clip, and a playable copy."""
    row, made = entry.row, entry.status
    derivative = primary(row.kind)
    url = f"/api/generations/{row.id}"
    return GenerationOut(
        id=row.id,
        user_id=row.user_id,
        title=row.title,
        type=GenerationType(row.kind.value),
        generation_status=row.status,
        status=made.state,
        path=made.path,
        picture_url=f"{url}/{derivative.asset}" if made.state is State.READY else None,
        clip_url=f"{url}/{CLIP.asset}" if row.id in clips else None,
        playable_url=f"{url}/file?playable=1" if row.id in copies else None,
        file_url=f"{url}/file" if row.is_finished else None,
        width=made.fact("width", int),
        height=made.fact("height", int),
        duration=made.fact("duration_seconds", float) if made.path else None,
        sizes=[
            PictureSize(url=f"{url}/{derivative.asset}?size={edge}", **size)
            for edge, size in sorted((made.fact("sizes", dict) or {}).items(), key=_edge)
            if made.path
        ],
        thumbhash=made.fact("thumbhash", str),
        error=made.error,
        error_class=made.error_class,
        attempts=made.attempts,
        retry_at=made.retry_at,
        run_id=made.run_id,
        dagster_path=f"/assets/{derivative.asset}?partition={row.id}",
        created_at=row.created_at,
        updated_at=row.changed_at,
        ready_at=made.ready_at,
    )


def _edge(size: tuple[str, Any]) -> int:
    return int(size[0])


def _words(q: str) -> str | None:
    """None: nothing is looked for. PostgreSQL takes no NUL and no surrogates."""
    printable = "".join(one if one.isprintable() else " " for one in q)
    return " ".join(printable.split()) or None


def _visible_user(caller: Caller, user_id: str | None) -> str | None:
    """Raises ApiError 403: the caller may not list that user."""
    wanted = user_id if user_id is not None else caller.user_id
    if caller.project_id is not None or (wanted and not caller.may_see_user(wanted)):
        raise ApiError(403, "forbidden", "this token does not cover generations of that user")
    return wanted
