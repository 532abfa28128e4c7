"""Assets of projects: the shots that masters may use."""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AfterValidator, BaseModel, Field, model_validator

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, ProjectAsset, ShotProblem
from lens_pipeline.catalog.titles import title_of
from lens_pipeline.derivatives import library
from lens_pipeline.derivatives.registry import CHECKED_SHOT
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import InvalidKey, is_object_key, validate_key
from lens_pipeline.web.auth.caller import Caller, CallerDep, media_caller
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.http.streaming import is_web_address, picture_not_ready, stream
from lens_pipeline.web.routes.generations import GenerationType
from lens_pipeline.web.routes.project_rows import (
    POSTER,
    Key,
    Page,
    Wanted,
    create,
    invalid,
    page_of,
    require_writable,
    row_of,
)

router = APIRouter(prefix="/api/projects/{project_id}/assets", tags=["assets"])

PageDep = Annotated[Page, Depends(page_of(Kind.SHOT))]
MediaDep = Annotated[Listed[ProjectAsset], Depends(row_of(Kind.SHOT, "asset_id", media_caller))]

_MOST_ADDRESS = 2048


def _is_source(value: str) -> str:
    if is_object_key(value):
        try:
            return validate_key(value)
        except InvalidKey as error:
            raise ValueError(str(error)) from None
    if " " in value or not is_web_address(value):
        raise ValueError("it is no web address")
    return value


Source = Annotated[str, Field(min_length=1, max_length=_MOST_ADDRESS), AfterValidator(_is_source)]


class NewAsset(Wanted):
    """A generation, or a file elsewhere, for a project to use: one of the two."""

    generation_id: Key | None = None
    asset_url: Source | None = None
    """An address `https://…` or `http://…`, or an object key of the store."""
    asset_id: Key | None = None
    """Makes the request safe to repeat."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.generation_id is None) == (self.asset_url is None):
            raise ValueError("give either generation_id or asset_url")
        return self


class AssetOut(BaseModel):
    """What a project may use as a shot."""

    asset_id: str
    project_id: str
    title: str | None
    """For people: of the generation, or the name of the file."""
    generation_id: str | None
    asset_url: str | None
    type: GenerationType | None
    """None: not known."""
    usable: bool
    """As a shot of a master, now."""
    waits: str | None
    generation_status: str | None
    """None: it has no generation."""
    problem: str | None
    """Why it cannot be used."""
    problem_code: ShotProblem | None
    poster_url: str | None
    thumbhash: str | None
    duration_seconds: float | None
    width: int | None
    height: int | None
    created_at: dt.datetime | None


class AssetsPage(BaseModel):
    """Assets newest first; `next_cursor` asks for the next ones, None: there are none."""

    assets: list[AssetOut]
    next_cursor: str | None


@router.get("")
def list_assets(page: PageDep, context: ContextDep) -> AssetsPage:
    """One page of a project's assets, newest first."""
    return AssetsPage(assets=_described(context, page.rows), next_cursor=page.next_cursor)


@router.post("", status_code=201, responses={200: {"model": AssetOut}, 409: {"model": Problem}})
def create_asset(
    project_id: str, wanted: NewAsset, caller: CallerDep, context: ContextDep, response: Response
) -> AssetOut:
    """Let a project use something; videos are checked soon after, so that masters take seconds.

    Asked for again with the same `asset_id`, nothing happens: 200 with the one there is.
    """
    require_writable(caller, project_id)
    _require_allowed(context, caller, wanted)
    values = wanted.model_dump(exclude={"asset_id"})
    listed = create(context, response, Kind.SHOT, project_id, wanted.asset_id, values)
    return _described(context, [listed])[0]


@router.head("/{asset_id}/poster", responses=POSTER)
@router.get("/{asset_id}/poster", response_class=Response, responses=POSTER)
def asset_poster(listed: MediaDep, request: Request, context: ContextDep) -> Response:
    """A picture of the asset, for those as well who may see the project but not its user."""
    generation_id = listed.row.generation_id
    entry = library.find(context.pipeline, generation_id) if generation_id else None
    if entry is None:
        raise not_found("picture of an asset", listed.row.id)
    if entry.status.path is None:
        raise picture_not_ready(entry.status.state)
    return stream(context.pipeline.store, request, entry.status.path)


def _require_allowed(context: Context, caller: Caller, wanted: NewAsset) -> None:
    """Raises ApiError 403 or 400."""
    # An asset would let a project's token read any user's file.
    source, store = wanted.asset_url or "", context.pipeline.store
    if caller.project_id is not None and (is_object_key(source) or store.key_of(source)):
        raise ApiError(403, "forbidden", "this token may only add files from web addresses")
    generation_id = wanted.generation_id
    if generation_id and not context.pipeline.catalog.library_rows([generation_id]):
        problem = f"there is no generation {generation_id!r}"
        raise invalid("generation_id", problem, "unknown_generation")


def _described(context: Context, listed: Sequence[Listed[ProjectAsset]]) -> list[AssetOut]:
    pipeline = context.pipeline
    rows = [one.row for one in listed]
    checks = row_statuses(pipeline, CHECKED_SHOT, rows)
    named = {row.generation_id for row in rows if row.generation_id}
    generations = pipeline.catalog.library_rows(named) if named else {}
    found = library.entries(pipeline, list(generations.values()))
    entries = dict(zip(generations, found, strict=True))
    return [
        _out(one, checks[one.row.id], entries.get(one.row.generation_id or "")) for one in listed
    ]


def _out(
    listed: Listed[ProjectAsset], check: DerivativeStatus, entry: library.Entry | None
) -> AssetOut:
    row = listed.row
    # Such a file fails every master.
    found_bad = check.fact("reason", str) or (check.error if check.state is State.DEAD else None)
    problem = row.shot.problem or found_bad
    url = f"/api/projects/{listed.project_id}/assets/{row.id}/poster"
    picture = entry.status if entry else None
    return AssetOut(
        asset_id=row.id,
        project_id=listed.project_id,
        title=entry.row.title if entry else title_of(row.id, None, row.asset_url or ""),
        generation_id=row.generation_id,
        asset_url=row.asset_url,
        type=GenerationType(entry.row.kind.value) if entry else _type_of(row.asset_url or ""),
        usable=row.shot.source is not None and problem is None,
        waits=row.shot.waits,
        generation_status=entry.row.status if entry else None,
        problem=problem,
        problem_code=row.shot.problem_code or (ShotProblem.UNUSABLE if found_bad else None),
        poster_url=url if picture and picture.path else None,
        thumbhash=picture.fact("thumbhash", str) if picture else None,
        duration_seconds=check.fact("duration_seconds", float)
        or (picture.fact("duration_seconds", float) if picture else None),
        width=picture.fact("width", int) if picture else None,
        height=picture.fact("height", int) if picture else None,
        created_at=listed.created_at,
    )


def _type_of(asset_url: str) -> GenerationType | None:
    path = re.split("[?#]", asset_url)[0]
    kinds = {"image": GenerationType.PHOTO, "video": GenerationType.VIDEO}
    return kinds.get(content_type_of(path).partition("/")[0])
