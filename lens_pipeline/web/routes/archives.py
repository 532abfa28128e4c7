"""Archives of chosen generations, and of all files of a project.

Rows are read page by page while the archive is sent: the first byte waits for one page alone.
"""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from lens_pipeline.catalog.generations import ListedGeneration
from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, ScaledVideo
from lens_pipeline.core import postgres
from lens_pipeline.derivatives.orders import name_of, sequences
from lens_pipeline.derivatives.originals import extra_files, stored_originals
from lens_pipeline.derivatives.registry import MASTER, SCALED, Derivative
from lens_pipeline.derivatives.status import row_statuses
from lens_pipeline.event_log.history import State
from lens_pipeline.storage.object_store import is_object_key
from lens_pipeline.web.auth.caller import Caller, MediaCallerDep, is_linked
from lens_pipeline.web.auth.rate_limits import client_network
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, not_found
from lens_pipeline.web.http.archive import ARCHIVE, Archive, ArchiveFile
from lens_pipeline.web.http.filenames import attachment, generation_name, known_ending
from lens_pipeline.web.http.streaming import is_web_address
from lens_pipeline.web.routes.project_rows import order_rows

router = APIRouter(tags=["archives"])

_MOST_GENERATIONS = 10_000
# A row whose files are looked up takes about a millisecond.
_PAGE = 100
# The gate refuses bodies over 1 MiB.
_MOST_IDS_LENGTH = 1024 * 1024

Ids = Annotated[str, Query(min_length=1, description="Ids of generations, with commas.")]
OrderIds = Annotated[str | None, Query(description="Ids of orders of renditions, with commas.")]
IdsOfForm = Annotated[str, Form(min_length=1, max_length=_MOST_IDS_LENGTH)]


@router.get("/api/generations/archive", response_class=Response, responses=ARCHIVE)
def generations_archive(
    request: Request, caller: MediaCallerDep, context: ContextDep, ids: Ids
) -> Response:
    """A ZIP file of originals and further results; those of others count as missing.

    An address has room for 200 ids or so.
    """
    return _generations_archive(request, caller, context, ids)


@router.post("/api/generations/archive", response_class=Response, responses=ARCHIVE)
def generations_archive_by_form(
    request: Request, caller: MediaCallerDep, context: ContextDep, ids: IdsOfForm
) -> Response:
    """The same of up to 10,000, as an HTML form sends it: a browser then saves it by itself.

    The form may have 1 MiB, in which a comma takes three bytes.
    """
    return _generations_archive(request, caller, context, ids)


def _generations_archive(request: Request, caller: Caller, context: Context, ids: str) -> Response:
    """Raises ApiError 400: too many ids; 404: none is of a generation that the caller may see."""
    wanted = list(dict.fromkeys(filter(None, ids.split(","))))
    if len(wanted) > _MOST_GENERATIONS:
        problem = f"an archive has {_MOST_GENERATIONS} generations at most"
        raise ApiError(400, "too_many_generations", problem, field="ids")
    gone: list[ArchiveFile] = []
    pages = _visible_pages(context, caller, wanted, gone)
    first = next(pages, None)
    if first is None:
        raise not_found("generation", ids)
    files = (file for page in chain([first], pages) for file in _of_generations(context, "", page))
    name = generation_name(first[0])
    if len(wanted) > 1:
        name = f"lens-{dt.datetime.now(dt.UTC):%Y-%m-%d-%H%M%S}"
    disposition, holder = attachment(name, ".zip"), _holder(request, caller)
    # The list is whole when the files are through.
    return Archive(context.pipeline.store, chain(files, gone), disposition, holder)


def _visible_pages(
    context: Context, caller: Caller, wanted: Sequence[str], gone: list[ArchiveFile]
) -> Iterator[list[ListedGeneration]]:
    """None is empty; what the caller cannot see is added to `gone`."""
    for start in range(0, len(wanted), _PAGE):
        page = wanted[start : start + _PAGE]
        postgres.restart_deadline()
        found = context.pipeline.catalog.library_rows(page)
        visible = {row_id: row for row_id, row in found.items() if caller.may_see_user(row.user_id)}
        gone += (
            ArchiveFile("", row_id, problem="no generation has this id")
            for row_id in page
            if row_id not in visible
        )
        if visible:
            yield list(visible.values())


def _holder(request: Request, caller: Caller) -> Hashable | None:
    """None: a caller who sees all. Links count by address: a user can have many of them."""
    if is_linked(request):
        return client_network(request)
    return None if caller.sees_all else caller


@router.get("/api/projects/{project_id}/archive", response_class=Response, responses=ARCHIVE)
def project_archive(
    project_id: str,
    request: Request,
    caller: MediaCallerDep,
    context: ContextDep,
    order_ids: OrderIds = None,
) -> Response:
    """A ZIP file of a project's films and renditions, and of the originals of its shots.

    Originals are for callers who see all users: a link and a token of the project give the rest.
    With `order_ids` it has the renditions of these orders alone, as `Film 9x16 03.mp4`.
    """
    if not caller.may_see_project(project_id):
        raise not_found("project", project_id)
    name = project_id
    if order_ids is not None:
        wanted = list(dict.fromkeys(filter(None, order_ids.split(","))))
        pieces = order_rows(context, project_id, wanted)
        films = {_film_name(listed.row) for listed in pieces}
        name = films.pop() if len(films) == 1 else name
        files = _of_orders(context, pieces)
    else:
        files = chain(_films(context, project_id), _renditions(context, project_id))
        if caller.sees_all and not is_linked(request):
            files = chain(files, _originals(context, project_id))
    first = next(files, None)
    if first is None:
        raise not_found("file of project", project_id)
    disposition = attachment(name, ".zip")
    holder = _holder(request, caller)
    return Archive(context.pipeline.store, chain([first], files), disposition, holder)


def _of_orders(context: Context, pieces: Sequence[Listed[ScaledVideo]]) -> Iterator[ArchiveFile]:
    """By their names, which are unlike the order in which the rows were made."""
    formats = {one.row.id: name_of(one.row.width, one.row.height) for one in pieces}
    groups = {one.row.id: (one.row.order_id, formats[one.row.id]) for one in pieces}
    counts = Counter(groups.values())
    numbers = sequences((one.row.id, groups[one.row.id], one.row.start_seconds) for one in pieces)

    def name(listed: Listed[ScaledVideo]) -> str:
        row_id = listed.row.id
        words = [_film_name(listed.row), formats[row_id].replace(":", "x")]
        if counts[groups[row_id]] > 1:
            words.append(f"{numbers[row_id]:02}")
        return " ".join(words)

    named = sorted(pieces, key=name)
    for start in range(0, len(named), _PAGE):
        postgres.restart_deadline()
        yield from _videos(context, SCALED, named[start : start + _PAGE], "", name)


def _film_name(row: ScaledVideo) -> str:
    return row.master.name if row.master else row.id


def _films(context: Context, project_id: str) -> Iterator[ArchiveFile]:
    def name(listed: Listed) -> str:
        return listed.row.name

    for page in _project_pages(context, Kind.MASTER, project_id):
        yield from _videos(context, MASTER, page, "films/", name)


def _renditions(context: Context, project_id: str) -> Iterator[ArchiveFile]:
    def name(listed: Listed) -> str:
        row = listed.row
        part = [f"{t:g}s" for t in (row.start_seconds, row.end_seconds) if t is not None]
        return " ".join([_film_name(row), "-".join(part), f"{row.width}x{row.height}"])

    for page in _project_pages(context, Kind.SCALED, project_id):
        yield from _videos(context, SCALED, page, "renditions/", name)


def _videos(
    context: Context,
    derivative: Derivative,
    page: Sequence[Listed],
    folder: str,
    name: Callable[[Listed], str],
) -> Iterator[ArchiveFile]:
    made = row_statuses(context.pipeline, derivative, [listed.row for listed in page])
    for listed in page:
        status = made[listed.row.id]
        path = status.path if status.state is State.READY else None
        problem = f"it is not ready: {status.state}"
        yield ArchiveFile(folder, name(listed), f".{derivative.extension}", path, problem)


def _originals(context: Context, project_id: str) -> Iterator[ArchiveFile]:
    """Of shots, each generation once."""
    done: set[str] = set()
    for page in _project_pages(context, Kind.SHOT, project_id):
        for listed in page:
            if listed.row.generation_id is None:
                url = listed.row.asset_url or ""
                yield _file("originals/", listed.row.id, listed.row.id, None, url)
        new = {one.row.generation_id for one in page if one.row.generation_id} - done
        done |= new
        rows = context.pipeline.catalog.library_rows(sorted(new))
        yield from _of_generations(context, "originals/", list(rows.values()))


def _project_pages(context: Context, kind: Kind, project_id: str) -> Iterator[list[Listed]]:
    place = None
    while True:
        postgres.restart_deadline()
        page = context.pipeline.catalog.project_page(kind, project_id, place, _PAGE)
        yield page
        if len(page) < _PAGE:
            return
        place = page[-1].place


def _of_generations(
    context: Context, folder: str, rows: Sequence[ListedGeneration]
) -> Iterator[ArchiveFile]:
    """In the order of `rows`."""
    for start in range(0, len(rows), _PAGE):
        page = rows[start : start + _PAGE]
        postgres.restart_deadline()
        finished = [row for row in page if row.is_finished]
        stored, extra = {}, {}
        for kind in {row.kind for row in finished}:
            sources = {row.id: row.asset_url for row in finished if row.kind is kind}
            stored |= stored_originals(context.pipeline, kind, sources)
            extra |= extra_files(context.pipeline, kind, sources)
        for row in page:
            if not row.is_finished:
                problem = f"it is not finished: {row.status}"
                yield ArchiveFile(folder, generation_name(row), problem=problem, row_id=row.id)
                continue
            kept = stored.get(row.id)
            path = kept and kept.path
            yield _file(folder, row.id, generation_name(row), path, row.asset_url)
            for one in extra.get(row.id, ()):
                name = generation_name(row, one.n)
                yield _file(folder, row.id, name, one.path, one.url or "")


def _file(folder: str, row_id: str, name: str, path: str | None, source: str) -> ArchiveFile:
    """The object at `path`, or where the row names it; the app fetches no links for clients."""
    key = path or source
    problem = "its row names no file"
    if is_web_address(source):
        problem = f"not in the store; its link: {source}"
    elif key and is_object_key(key):
        problem = "not in the store any more"
    if not key or not is_object_key(key):
        return ArchiveFile(folder, name, problem=problem, row_id=row_id)
    return ArchiveFile(folder, name, known_ending(key), key, problem, row_id)
