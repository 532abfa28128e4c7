"""The pages for people. What they show comes from the API: a page has no rights of its own."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.settings import Settings
from lens_pipeline.web.auth.caller import Caller, CallerDep
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import refused
from lens_pipeline.web.translations import TEXTS, Text, choose_language

router = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent
_templates = Jinja2Templates(directory=_HERE / "templates")


class RevalidatedFiles(StaticFiles):
    """Browsers revalidate these files: a new module must not import a cached old one."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


static_files = RevalidatedFiles(directory=_HERE / "static")


@router.api_route("/", methods=["GET", "HEAD"])
def index(caller: CallerDep) -> RedirectResponse:
    return RedirectResponse(f"/{_pages(caller)[0]}", status_code=302)


@router.api_route("/library", methods=["GET", "HEAD"])
def library_page(request: Request, caller: CallerDep, context: ContextDep) -> Response:
    return _page(request, "library", caller, context.pipeline.settings)


@router.api_route("/masters", methods=["GET", "HEAD"])
def masters_page(request: Request, caller: CallerDep, context: ContextDep) -> Response:
    settings = context.pipeline.settings
    if "masters" in _pages(caller) and _lacks_masters(context):
        return _rendered(request, "masters_off", caller, settings)
    return _page(request, "masters", caller, settings)


def _lacks_masters(context: Context) -> bool:
    try:
        return context.pipeline.catalog.lack_of(Kind.MASTER) is not None
    except CatalogError:  # the page tells of it
        return False


async def missing_page(request: Request, error: Exception) -> Response:
    """The answer to an unknown path: a page for a browser, JSON for a program."""
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None or "text/html" not in request.headers.get("accept", ""):
        return await refused(request, error)
    return _rendered(request, "missing", caller, request.app.state.context.pipeline.settings, 404)


def _page(request: Request, name: str, caller: Caller, settings: Settings) -> Response:
    if name not in _pages(caller):
        return index(caller)
    return _rendered(request, name, caller, settings)


def _rendered(
    request: Request, name: str, caller: Caller, settings: Settings, status: int = 200
) -> Response:
    language = choose_language(request.headers.get("accept-language", ""))
    texts = TEXTS[language]
    values: dict[str, Any] = {
        "page": name,
        "pages": _pages(caller),
        # A caller with a token in its header has no session to end.
        "logged_in": any(cookie.endswith("lens_session") for cookie in request.cookies),
        "language": language.value,
        "texts": texts,
        "t": lambda key: _plain(texts[key]),
        "user_id": caller.user_id or "",
        "project_id": caller.project_id or "",
        "deletion": "on" if settings.deletion else "",
        # For whom uploads are open, and how large they may be.
        "max_bytes": settings.max_source_bytes if caller.sees_all else "",
        "dagster_port": settings.dagster_port if caller.sees_all else None,
        "dagster_url": settings.dagster_public_url if caller.sees_all else None,
    }
    headers = {
        "Content-Language": language.value,
        "Vary": "Accept, Accept-Language, Cookie",
        "Cache-Control": "no-store",
    }
    return _templates.TemplateResponse(request, f"{name}.html", values, status, headers)


def _pages(caller: Caller) -> list[str]:
    """A user's token covers no project, a project's token no user."""
    hidden = {"library": caller.project_id, "masters": caller.user_id}
    return [name for name, scope in hidden.items() if scope is None]


def _plain(text: Text) -> str:
    if not isinstance(text, str):
        raise TypeError("a text with a number in it is for the page's scripts")
    return text
