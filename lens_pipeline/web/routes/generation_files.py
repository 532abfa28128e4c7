"""The files of generations: pictures, clips, and the photos and videos themselves."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from lens_pipeline.catalog.generations import ListedGeneration
from lens_pipeline.derivatives import library
from lens_pipeline.derivatives.originals import extra_files, stored_originals
from lens_pipeline.derivatives.registry import PLAYABLE, Derivative, of_generations
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.storage.content_types import CONTENT_TYPES, UNKNOWN_TYPE
from lens_pipeline.storage.object_store import is_object_key
from lens_pipeline.web.auth.caller import MediaCallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError
from lens_pipeline.web.http.filenames import attachment, generation_name, known_ending
from lens_pipeline.web.http.streaming import described, picture_not_ready, redirect, stream
from lens_pipeline.web.routes.generations import visible_entry

router = APIRouter(tags=["generations"])

_FILE = described(*sorted(set(CONTENT_TYPES.values())), UNKNOWN_TYPE) | {
    307: {"description": "It lies elsewhere."}
}


def picture_routes() -> APIRouter:
    routes = APIRouter(tags=["generations"])
    # The playable copy is served in place of the file.
    for derivative in (one for one in of_generations() if one is not PLAYABLE):
        _add_picture_route(routes, derivative)
    return routes


def _add_picture_route(routes: APIRouter, derivative: Derivative) -> None:
    def picture(
        generation_id: str,
        request: Request,
        caller: MediaCallerDep,
        context: ContextDep,
        size: Annotated[int | None, Query(ge=1, le=8192)] = None,
    ) -> Response:
        entry = visible_entry(context, caller, generation_id)
        if entry.row.kind is not derivative.kind:
            raise ApiError(404, "not_found", f"a {entry.row.kind} has no {derivative.asset}")
        made = library.status(context.pipeline, entry, derivative)
        if made.path is None:
            raise picture_not_ready(made.state)
        path = _path(made, made.path, size)
        try:
            return stream(context.pipeline.store, request, path)
        except ApiError as error:
            if error.status != 404 or path == made.path:
                raise
            return stream(context.pipeline.store, request, made.path)

    for method in ("HEAD", "GET"):
        routes.add_api_route(
            f"/api/generations/{{generation_id}}/{derivative.asset}",
            picture,
            methods=[method],
            name=derivative.asset,
            description=f"The {derivative.asset} of a {derivative.kind}. With `size`, the smallest"
            " of its pictures whose longest edge has as many pixels, else the largest.",
            response_class=Response,
            responses=described(CONTENT_TYPES[f".{derivative.extension}"]),
        )


def _path(made: DerivativeStatus, path: str, size: int | None) -> str:
    """Of the picture for `size`; `path`: of the one that is always there."""
    if size is None:
        return path
    main = {"path": path, "width": made.fact("width", int), "height": made.fact("height", int)}
    pictures = [main, *(made.fact("sizes", dict) or {}).values()]
    edges = {max(one["width"] or 0, one["height"] or 0): one["path"] for one in pictures}
    return edges[min((edge for edge in edges if edge >= size), default=max(edges))]


@router.head("/api/generations/{generation_id}/file", responses=_FILE)
@router.get("/api/generations/{generation_id}/file", response_class=Response, responses=_FILE)
def file(
    generation_id: str,
    request: Request,
    caller: MediaCallerDep,
    context: ContextDep,
    n: Annotated[int, Query(ge=1)] = 1,
    playable: Annotated[int, Query(ge=0, le=1)] = 0,
) -> Response:
    """The photo or video itself, or result `n` of its task.

    From the store, or while it is not there, where its link leads. With `playable=1`, the copy of a
    video that all browsers play, if there is one.
    """
    entry = visible_entry(context, caller, generation_id)
    row = entry.row
    if not row.is_finished:
        raise ApiError(404, "not_ready", "it is not finished", status=row.status)
    if n == 1:
        if playable and (copy := _playable_copy(context, request, entry)):
            return copy
        sources = {row.id: row.asset_url}
        stored = stored_originals(context.pipeline, row.kind, sources).get(row.id)
        return _file(context, request, row, n, stored and stored.path, row.asset_url)
    found = extra_files(context.pipeline, row.kind, [row.id]).get(row.id, [])
    extra = {one.n: one for one in found}
    if n not in extra:
        raise ApiError(404, "not_found", f"its task has no result {n}")
    return _file(context, request, row, n, extra[n].path, extra[n].url or "")


def _playable_copy(context: Context, request: Request, entry: library.Entry) -> Response | None:
    """None: there is none, or it is gone."""
    if entry.row.kind is not PLAYABLE.kind:
        return None
    path = library.status(context.pipeline, entry, PLAYABLE).path
    if path is None:
        return None
    try:
        disposition = attachment(generation_name(entry.row), ".mp4", inline=True)
        return stream(context.pipeline.store, request, path, disposition=disposition)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _file(
    context: Context,
    request: Request,
    row: ListedGeneration,
    n: int,
    path: str | None,
    source: str,
) -> Response:
    path = path or source
    if not is_object_key(path):
        return redirect(path)
    ending = known_ending(path)
    # A browser shows what is known, and offers the rest for download.
    disposition = attachment(generation_name(row, n), ending, inline=bool(ending))
    try:
        return stream(context.pipeline.store, request, path, disposition=disposition)
    except ApiError as error:
        if error.status == 404 and not is_object_key(source):
            return redirect(source)
        raise
