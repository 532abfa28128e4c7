"""The middleware that every request passes before it is served."""

from urllib.parse import quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lens_pipeline.core import postgres
from lens_pipeline.web.auth import sessions
from lens_pipeline.web.auth.access import Access
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.auth.origin import foreign_host, foreign_origin
from lens_pipeline.web.auth.signed_links import is_media
from lens_pipeline.web.auth.tokens import Pass, Tokens
from lens_pipeline.web.errors import ApiError, unauthorized
from lens_pipeline.web.http.bodies import Body

# How long a request may wait for databases.
_DATABASE_SECONDS = 6.0
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEALTH = frozenset({"/health", "/health/live", "/api/health", "/api/health/live"})
_WEBHOOK = "/api/kie/webhook"
_WEBHOOKS = "/api/webhooks/"
# Method and path of bodies that are too long to be held.
_UPLOAD = ("POST", "/api/generations")
_LOGIN = frozenset({"/login", "/logout"})
_STATIC = "/static/"
# Webhook and login check for themselves.
_OPEN = frozenset({*_HEALTH, *_LOGIN, _WEBHOOK, "/favicon.ico"})
_FOR_ALL_SEEING = frozenset({"/metrics"})
_FOR_PROGRAMS = ("/api/", *_FOR_ALL_SEEING)


def is_open(path: str) -> bool:
    """Whether this decoded path needs no caller; every other path needs one."""
    return path in _OPEN or path.startswith((_STATIC, _WEBHOOKS))


class Gate:
    """Admits a request with its caller and its whole body, but for uploads, or answers it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            try:
                await self._http(scope, receive, send)
            except ClientDisconnect:
                return
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "there are none here"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        body = Body(receive, request.headers)
        has_body = body.is_expected
        limits = self._access.limits
        try:
            refusal = self._admit(request)
            if refusal is None and (scope["method"], scope["path"]) == _UPLOAD:
                receive, send = body.paced(limits.body_seconds), _closing(send, body)
            elif refusal is None and has_body:
                is_form = scope["path"] in _LOGIN
                most = limits.form_bytes if is_form else limits.body_bytes
                receive = await body.whole(most, limits.body_seconds)
        except ApiError as error:
            refusal = error.response()
        if refusal is None:
            with postgres.deadline(_DATABASE_SECONDS):
                await self._app(scope, receive, send)
            return
        if has_body:
            # The next request must not begin in this body.
            refusal.headers["Connection"] = "close"
            if refusal.status_code != 408:
                await body.drain()
        await refusal(scope, receive, send)

    def _admit(self, request: HTTPConnection) -> Response | None:
        """Set the caller. Returns an answer, or raises ApiError, to refuse the request."""
        scope, access = request.scope, self._access
        path: str = scope["path"]
        if len(scope["raw_path"]) + len(scope["query_string"]) > access.limits.address_bytes:
            problem = f"it may have {access.limits.address_bytes} bytes"
            raise ApiError(414, "address_too_long", problem)
        linked = scope["method"] in _SAFE and access.links.covers(path, scope["query_string"])
        request.state.linked = linked
        self._refuse_foreign(request, linked)
        if access.tokens is None:
            request.state.caller = Caller()
            return None
        if is_open(path):
            return None
        owner = self._owner(request, access.tokens)
        if owner is None:
            return None if linked else _who_are_you(request)
        if path in _FOR_ALL_SEEING and not owner.caller.sees_all:
            raise ApiError(403, "forbidden", "this needs LENS_API_TOKEN itself")
        request.state.caller = owner.caller
        request.state.known_until = owner.until
        return None

    def _refuse_foreign(self, request: HTTPConnection, linked: bool) -> None:
        """Raises ApiError 403: another site's page may have sent the request."""
        headers, access = request.headers, self._access
        path, is_safe = request.scope["path"], request.scope["method"] in _SAFE
        # Load balancers use the machine's number.
        reason = None if path in _HEALTH else foreign_host(headers, access.hosts)
        if reason:
            raise ApiError(403, "foreign_host", reason)
        reason = foreign_origin(headers, access.proxies)
        if reason is None and not linked and _fetched_elsewhere(headers, is_safe):
            reason = "refused: sent by a page of another site"
        # Every browser names the origin of a form.
        if reason is None and not is_safe and path in _LOGIN and "origin" not in headers:
            reason = "refused: sent without Origin"
        if reason:
            raise ApiError(403, "foreign_origin", reason)

    def _owner(self, request: HTTPConnection, tokens: Tokens) -> Pass | None:
        """None: no token, no session. Raises ApiError 401: the token is not valid."""
        headers = request.headers
        scheme, _, token = headers.get("authorization", "").partition(" ")
        # A proxy in front passes on other schemes, meant for itself.
        if scheme.lower() == "bearer":
            # Starlette reads headers as Latin-1.
            owner = tokens.read(token.strip().encode("latin-1").decode(errors="replace"))
            if owner is None:
                self._access.wrong_tokens.count(request)
                raise unauthorized("the token is not valid, or has expired", "invalid_token")
            return owner
        owner = sessions.read(request, tokens)
        # Browsers send the cookie for other sites' pages, too.
        if owner and request.scope["method"] not in _SAFE and "origin" not in headers:
            raise ApiError(403, "foreign_origin", "refused: sent with a cookie but without Origin")
        return owner


def _closing(send: Send, body: Body) -> Send:
    """A `send` that ends the connection if the answer comes before the end of the body."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start" and body.is_expected:
            MutableHeaders(scope=message)["Connection"] = "close"
            if message["status"] != 408:
                await body.drain()
        await send(message)

    return answer


def _fetched_elsewhere(headers: Headers, is_safe: bool) -> bool:
    """Whether the browser names another site's page as the sender; links are allowed."""
    site = headers.get("sec-fetch-site", "none")
    if is_safe:
        return site == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
    return site not in ("none", "same-origin")


def _who_are_you(request: HTTPConnection) -> Response:
    """The redirect to the login. Raises ApiError 401 for programs."""
    scope = request.scope
    if is_media(scope["path"]) and b"signature=" in scope["query_string"]:
        raise unauthorized("this link has expired or is not whole: ask for a new one")
    if scope["path"].startswith(_FOR_PROGRAMS) or scope["method"] not in _SAFE:
        raise unauthorized()
    query = scope["query_string"].decode("latin-1")
    wanted = quote(scope["path"]) + (f"?{query}" if query else "")
    return RedirectResponse(f"/login?{urlencode({'next': wanted})}", status_code=303)
