"""Adding photos and videos: the body of a request is the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect

from lens_pipeline.core.files import scratch_directory
from lens_pipeline.derivatives import library
from lens_pipeline.derivatives.uploads import add_file, kind_of_file, require_user
from lens_pipeline.errors import DiskFull, InvalidRow, SourceTooLarge, SourceUnreadable
from lens_pipeline.storage.object_store import save_stream
from lens_pipeline.web.auth.access import Access
from lens_pipeline.web.auth.caller import all_seeing_caller
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, not_found, unavailable
from lens_pipeline.web.routes.generations import GenerationOut, shown
from lens_pipeline.web.routes.project_rows import Key

router = APIRouter(tags=["generations"])

# Others wait: each holds a thread, and a disk.
_AT_ONCE = CapacityLimiter(4)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}}
}
FileName = Annotated[str, Query(min_length=1, max_length=1000)]


@router.post(
    "/api/generations",
    status_code=201,
    openapi_extra=_BODY,
    dependencies=[Depends(all_seeing_caller)],
)
async def add_generation(
    request: Request, context: ContextDep, name: FileName, user_id: Key = "me"
) -> GenerationOut:
    """Add a photo or video, finished, from a file that is called `name`.

    The body is the file itself, of any Content-Type; what it is, its content says.
    """
    return await to_thread.run_sync(_add, request, context, name, user_id, limiter=_AT_ONCE)


def _add(request: Request, context: Context, name: str, user_id: str) -> GenerationOut:
    """Raises ApiError."""
    pipeline, access = context.pipeline, _access(request)
    pipeline.catalog.check_adding()
    try:
        require_user(pipeline, user_id)
    except InvalidRow as error:
        problem = f"{error}: name one as user_id"
        raise ApiError(400, "invalid_user", problem, field="user_id") from None
    with scratch_directory(pipeline.settings.scratch) as directory:
        path = directory / "upload"
        _save(request, path, pipeline.settings.max_source_bytes)
        try:
            kind = kind_of_file(path)
        except SourceUnreadable as error:
            access.refused_uploads.count(request)
            raise ApiError(415, "unsupported_file", str(error)) from None
        generation_id = add_file(pipeline, path, name, user_id, kind)
    entry = library.find(pipeline, generation_id)
    if entry is None:
        raise not_found("generation", generation_id)
    return shown(context, entry)[0]


def _save(request: Request, path: Path, most: int) -> None:
    """Raises ApiError 413, 400, 408, 503."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else None
    try:
        save_stream(_chunks(request), path, max_bytes=most, expected_bytes=size, check=lambda: None)
    except SourceTooLarge:
        raise ApiError(413, "too_large", f"a file may have {most} bytes") from None
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the file did not come whole") from None
    except DiskFull as error:
        raise unavailable("disk", str(error)) from None


def _chunks(request: Request) -> Iterator[bytes]:
    """Of the body, read on the event loop; one is held at a time."""
    stream = request.stream()

    async def following() -> bytes:
        return await anext(stream)

    while chunk := from_thread.run(following):
        yield chunk


def _access(request: Request) -> Access:
    return request.app.state.access
