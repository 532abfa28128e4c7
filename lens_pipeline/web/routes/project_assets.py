"""What a project may use as shots of its masters."""

import datetime as dt
import uuid
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Self
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, Field, model_validator

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, ProjectAsset
from lens_pipeline.derivatives import library
from lens_pipeline.derivatives.registry import CHECKED_SHOT
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.object_store import InvalidKey, validate_key
from lens_pipeline.web.auth.caller import Caller, CallerDep, MediaCallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, Problem, not_found
from lens_pipeline.web.http.streaming import described, is_web_address, picture_not_ready, stream
from lens_pipeline.web.routes.generations import GenerationType
from lens_pipeline.web.routes.project_rows import (
    CursorQuery,
    Key,
    LimitQuery,
    Wanted,
    insert,
    invalid,
    listed_page,
    require_writable,
    taken,
    visible_row,
)

router = APIRouter(prefix="/api/projects/{project_id}/assets", tags=["assets"])

_MOST_ADDRESS = 2048


def _is_source(value: str) -> str:
    """A web address, or a key of the store."""
    if not is_web_address(value):
        try:
            return validate_key(value)
        except InvalidKey as error:
            raise ValueError(str(error)) from None
    parts = urlsplit(value)
    # A port that there cannot be is a ValueError of its own.
    if not value.isprintable() or " " in value or not parts.hostname or parts.port == 0:
        raise ValueError("it is no web address")
    return value


Source = Annotated[str, Field(min_length=1, max_length=_MOST_ADDRESS), AfterValidator(_is_source)]


class NewAsset(Wanted):
    """A generation, or a file elsewhere, for a project to use: one of the two."""

    generation_id: Key | None = None
    asset_url: Source | None = None
    """An address `https://…` or `http://…`, or an object key of the store."""
    asset_id: Key | None = None
    """Makes the request safe to repeat; without one, an id is made up."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.generation_id is None) == (self.asset_url is None):
            raise ValueError("give either generation_id or asset_url")
        return self


class AssetOut(BaseModel):
    """What a project may use as a shot."""

    asset_id: str
    project_id: str
    generation_id: str | None
    asset_url: str | None
    type: GenerationType | None
    """None if neither a generation nor the address says what it is."""
    usable: bool
    """As a shot of a master, now."""
    waits: str | None
    """What is still to come before it is."""
    problem: str | None
    """Why it never will be as things stand."""
    poster_url: str | None
    thumbhash: str | None
    width: int | None
    height: int | None
    created_at: dt.datetime | None


class AssetsPage(BaseModel):
    """Assets newest first; `next_cursor` asks for the next ones, None: there are none."""

    assets: list[AssetOut]
    next_cursor: str | None


@router.get("")
def list_assets(
    project_id: str,
    caller: CallerDep,
    context: ContextDep,
    cursor: CursorQuery = None,
    limit: LimitQuery = 60,
) -> AssetsPage:
    """One page of a project's assets, newest first."""
    page = listed_page(context, caller, Kind.SHOT, project_id, cursor, limit)
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
    row_id = wanted.asset_id or str(uuid.uuid4())
    values = wanted.model_dump(exclude={"asset_id"})
    listed, added = insert(
        context, Kind.SHOT, project_id, row_id, {"project_id": project_id, **values}
    )
    if not added:
        if any(getattr(listed.row, name) != value for name, value in values.items()):
            raise taken(row_id)
        response.status_code = 200
    return _described(context, [listed])[0]


@router.head("/{asset_id}/poster", responses=described("image/webp"))
@router.get("/{asset_id}/poster", response_class=Response, responses=described("image/webp"))
def asset_poster(
    project_id: str, asset_id: str, request: Request, caller: MediaCallerDep, context: ContextDep
) -> Response:
    """A picture of the asset, for those as well who may see the project but not its user."""
    row = _row(visible_row(context, caller, Kind.SHOT, project_id, asset_id))
    entry = library.find(context.pipeline, row.generation_id) if row.generation_id else None
    if entry is None:
        raise not_found("picture of an asset", asset_id)
    if entry.status.path is None:
        raise picture_not_ready(entry.status.state)
    return stream(context.pipeline.store, request, entry.status.path)


def _require_allowed(context: Context, caller: Caller, wanted: NewAsset) -> None:
    """Raises ApiError unless the caller may put this into a project."""
    if wanted.asset_url is not None:
        if caller.project_id is not None and not is_web_address(wanted.asset_url):
            raise _not_covered()
        return
    if caller.project_id is not None:
        raise _not_covered()
    generation_id = str(wanted.generation_id)
    if not context.pipeline.catalog.library_rows([generation_id]):
        problem = f"there is no generation {generation_id!r}"
        raise invalid("generation_id", problem, "unknown_generation")


def _not_covered() -> ApiError:
    # Whatever is in the store, of whichever user, could be seen through an asset of one's own.
    return ApiError(403, "forbidden", "this token may only add files from web addresses")


def _row(listed: Listed) -> ProjectAsset:
    assert isinstance(listed.row, ProjectAsset)  # noqa: S101
    return listed.row


def _described(context: Context, listed: Sequence[Listed]) -> list[AssetOut]:
    pipeline = context.pipeline
    rows = [_row(one) for one in listed]
    checks = row_statuses(pipeline, CHECKED_SHOT, rows)
    named = {row.generation_id for row in rows if row.generation_id}
    generations = list(pipeline.catalog.library_rows(named).values()) if named else []
    entries = {entry.row.id: entry for entry in library.entries(pipeline, generations)}
    return [
        _out(one, checks[one.row.id], entries.get(_row(one).generation_id or "")) for one in listed
    ]


def _out(listed: Listed, check: DerivativeStatus, entry: library.Entry | None) -> AssetOut:
    row = _row(listed)
    # What has been looked at and found bad fails every master it is in.
    found_bad = check.fact("reason", str) or (check.error if check.state is State.DEAD else None)
    problem = row.shot.problem or found_bad
    url = f"/api/projects/{listed.project_id}/assets/{row.id}/poster"
    picture = entry.status if entry else None
    return AssetOut(
        asset_id=row.id,
        project_id=listed.project_id,
        generation_id=row.generation_id,
        asset_url=row.asset_url,
        type=GenerationType(entry.row.kind.value) if entry else _type_of(row.asset_url or ""),
        usable=row.shot.source is not None and problem is None,
        waits=row.shot.waits,
        problem=problem,
        poster_url=url if picture and picture.path else None,
        thumbhash=picture.fact("thumbhash", str) if picture else None,
        width=picture.fact("width", int) if picture else None,
        height=picture.fact("height", int) if picture else None,
        created_at=listed.created_at,
    )


def _type_of(asset_url: str) -> GenerationType | None:
    path = urlsplit(asset_url).path if is_web_address(asset_url) else asset_url
    kinds = {"image": GenerationType.PHOTO, "video": GenerationType.VIDEO}
    return kinds.get(content_type_of(str(PurePosixPath(path))).partition("/")[0])
