"""The cookie of a browser that logged in with a token."""

from starlette.requests import HTTPConnection
from starlette.responses import Response

from lens_pipeline.web.auth.tokens import Pass, Tokens

SESSION_SECONDS = 7 * 24 * 3600


def start(response: Response, request: HTTPConnection, tokens: Tokens, owner: Pass) -> None:
    """Log the browser in as `owner`, for a week or until its token ends."""
    value, seconds = tokens.session(owner, SESSION_SECONDS)
    response.set_cookie(
        _name(request),
        value,
        max_age=seconds,
        httponly=True,
        samesite="lax",
        secure=came_by_https(request),
    )


def end(response: Response, request: HTTPConnection) -> None:
    response.delete_cookie(
        _name(request), httponly=True, samesite="lax", secure=came_by_https(request)
    )


def read(request: HTTPConnection, tokens: Tokens) -> Pass | None:
    """None: there is no valid cookie."""
    cookie = request.cookies.get(_name(request))
    return tokens.read_session(cookie) if cookie else None


def came_by_https(request: HTTPConnection) -> bool:
    """Whether the browser's connection is encrypted, by the word of a proxy or of the client.

    A client that lies only keeps its own cookie off plain HTTP.
    """
    said = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return request.url.scheme == "https" or said == "https"


def _name(request: HTTPConnection) -> str:
    # Neither plain HTTP nor another host of the domain can set a `__Host-` cookie.
    return "__Host-lens_session" if came_by_https(request) else "lens_session"
