"""The pages for people: the library and the masters of a project.

Everything they show comes from the API, so that a page has no rights of its own.
"""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from lens_pipeline.settings import Settings
from lens_pipeline.web.auth.caller import Caller, CallerDep
from lens_pipeline.web.context import ContextDep
from lens_pipeline.web.translations import TEXTS, Text, choose_language

router = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent
_templates = Jinja2Templates(directory=_HERE / "templates")


class RevalidatedFiles(StaticFiles):
    """Files that browsers revalidate: a new module must not import an old one by its name."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


static_files = RevalidatedFiles(directory=_HERE / "static")


@router.api_route("/", methods=["GET", "HEAD"])
def index(caller: CallerDep) -> RedirectResponse:
    """The first page for this caller."""
    return RedirectResponse(f"/{_pages(caller)[0]}", status_code=302)


@router.api_route("/library", methods=["GET", "HEAD"])
def library_page(request: Request, caller: CallerDep, context: ContextDep) -> Response:
    """Pictures of generations, as they become ready."""
    return _page(request, "library", caller, context.pipeline.settings)


@router.api_route("/masters", methods=["GET", "HEAD"])
def masters_page(request: Request, caller: CallerDep, context: ContextDep) -> Response:
    """Masters of a project, and the editor of new ones."""
    return _page(request, "masters", caller, context.pipeline.settings)


def _page(request: Request, name: str, caller: Caller, settings: Settings) -> Response:
    if name not in _pages(caller):
        return index(caller)
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
        "dagster_port": _dagster_port(caller, settings.dagster_port),
        "dagster_url": settings.dagster_public_url if caller.sees_all else None,
    }
    headers = {
        "Content-Language": language.value,
        "Vary": "Accept-Language, Cookie",
        "Cache-Control": "no-store",
    }
    return _templates.TemplateResponse(request, f"{name}.html", values, headers=headers)


def _pages(caller: Caller) -> list[str]:
    """A user's token covers no project, a project's token no user."""
    return [
        name
        for name, hidden in (("library", caller.project_id), ("masters", caller.user_id))
        if hidden is None
    ]


def _dagster_port(caller: Caller, port: int) -> int | None:
    """The port of Dagster's UI on this machine; None for callers who do not see all."""
    return port if caller.sees_all else None


def _plain(text: Text) -> str:
    if not isinstance(text, str):
        raise TypeError("a text with a number in it is for the page's scripts")
    return text
