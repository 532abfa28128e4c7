"""The login page: a token is exchanged for a cookie."""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.templating import Jinja2Templates
from itsdangerous import BadData
from starlette.responses import RedirectResponse, Response

from lens_pipeline.web.auth import sessions
from lens_pipeline.web.auth.access import Access
from lens_pipeline.web.errors import ApiError
from lens_pipeline.web.translations import TEXTS, choose_language

router = APIRouter(include_in_schema=False)

_templates = Jinja2Templates(directory=Path(__file__).parent.parent / "templates")
# Browsers take what follows `//` or `/\` for a host.
_OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
_HOME = "/"
_LONGEST = 4096
# It binds a form to its browser.
_FORM_COOKIE = "lens_login"
_FORM_SECONDS = 3600


@router.api_route("/login", methods=["GET", "HEAD"])
def login_page(request: Request, next: str = _HOME) -> Response:  # noqa: A002
    tokens = _access(request).tokens
    if tokens is None or sessions.read(request, tokens):
        return RedirectResponse(_own_path(next), status_code=303)
    return _form(request, next)


@router.post("/login")
def login(
    request: Request,
    token: Annotated[str, Form(max_length=_LONGEST)] = "",
    form: Annotated[str, Form(max_length=_LONGEST)] = "",
    next: Annotated[str, Form(max_length=_LONGEST)] = _HOME,  # noqa: A002
) -> Response:
    access = _access(request)
    if access.tokens is None:
        return RedirectResponse(_own_path(next), status_code=303)
    if not _is_ours(request, access, form):
        return _form(request, next, "stale", 403)
    owner = access.tokens.read(token.strip())
    if owner is None:
        try:
            access.wrong_logins.count(request)
        except ApiError as refused:
            return _form(request, next, "often", refused.status, refused.headers)
        return _form(request, next, "wrong", 401, {"WWW-Authenticate": "Bearer"})
    response = RedirectResponse(_own_path(next), status_code=303)
    sessions.start(response, request, access.tokens, owner)
    response.delete_cookie(_FORM_COOKIE, path="/login", httponly=True, samesite="strict")
    return response


@router.post("/logout")
def logout(request: Request) -> Response:
    response = RedirectResponse("/login", status_code=303)
    sessions.end(response, request)
    return response


def _form(
    request: Request,
    next_path: str,
    problem: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    nonce = secrets.token_urlsafe(16)
    language = choose_language(request.headers.get("accept-language", ""))
    values = {
        "language": language.value,
        "texts": TEXTS[language],
        "problem": problem,
        "next": _own_path(next_path),
        "form": _access(request).forms.dumps(nonce),
    }
    response = _templates.TemplateResponse(
        request, "login.html", values, status_code=status, headers=headers
    )
    response.headers["Content-Language"] = language.value
    response.set_cookie(
        _FORM_COOKIE,
        nonce,
        max_age=_FORM_SECONDS,
        path="/login",
        httponly=True,
        samesite="strict",
        secure=sessions.came_by_https(request),
    )
    return response


def _is_ours(request: Request, access: Access, form: str) -> bool:
    try:
        nonce: str = access.forms.loads(form)
    except BadData:
        return False
    # compare_digest takes text only if it is ASCII.
    known = request.cookies.get(_FORM_COOKIE, "").encode()
    return secrets.compare_digest(nonce.encode(), known)


def _own_path(path: str) -> str:
    return path if _OWN_PATH.fullmatch(path) else _HOME


def _access(request: Request) -> Access:
    return request.app.state.access
