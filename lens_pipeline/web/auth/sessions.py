"""The cookie of a browser that logged in with a token."""

from starlette.requests import HTTPConnection
from starlette.responses import Response

from lens_pipeline.web.auth.tokens import Pass, Tokens

SESSION_SECONDS = 7 * 24 * 3600


def start(response: Response, request: HTTPConnection, tokens: Tokens, owner: Pass) -> None:
    """Log the browser in for a week, or until the owner's token ends."""
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
    """None: no valid cookie."""
    cookie = request.cookies.get(_name(request))
    return tokens.read_session(cookie) if cookie else None


def came_by_https(request: HTTPConnection) -> bool:
    """A client that lies about it only keeps its own cookie off plain HTTP."""
    said = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return request.url.scheme == "https" or said == "https"


def _name(request: HTTPConnection) -> str:
    # Plain HTTP and sibling hosts cannot set `__Host-` cookies.
    return "__Host-lens_session" if came_by_https(request) else "lens_session"
