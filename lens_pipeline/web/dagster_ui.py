"""Guards of the Dagster UI: against pages of other sites, and a login if LENS_API_TOKEN is set.

Dagster itself obeys any page: an image at `/graphql?query=mutation…` starts a run.
"""

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Collection
from itertools import accumulate
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lens_pipeline import settings
from lens_pipeline.engine.processes import startup, webserver
from lens_pipeline.storage.connect import open_store
from lens_pipeline.web.auth import sessions
from lens_pipeline.web.auth.access import Limits, access_of
from lens_pipeline.web.auth.origin import allowed_hosts, foreign_host, foreign_origin
from lens_pipeline.web.auth.rate_limits import RateLimit
from lens_pipeline.web.auth.tokens import Tokens
from lens_pipeline.web.errors import ApiError
from lens_pipeline.web.http.bodies import Body
from lens_pipeline.web.http.dagster_links import DagsterLinks
from lens_pipeline.web.http.http1 import BoundedProtocol, raise_connection_limit

# Browsers send these to another site only if it allows it, which Dagster does not.
_PREFLIGHTED = ("application/json", "application/graphql")
# Programs that watch the server read the version there. Paths of assets may end so, too, and a POST
# to one writes to the event log: only the whole path is open.
_OPEN = "/server_info"
# Configurations of runs may be long.
_BODY_BYTES = 16 * 1024 * 1024
_BODY_SECONDS = 30.0
# Parsers call themselves for each level; the UI's queries have 20.
_MOST_LEVELS = 100
_BRACKETS = re.compile(r"[][(){}]")
# Their brackets nest nothing. A text of several lines that is left open takes the rest.
_TEXTS = re.compile(
    r'''
      \#[^\r\n]*
    | """ (?: \\""" | (?!""") . )*+ (?: """ | \Z )
    | " (?: \\. | [^"\\\r\n] )*+ "
    ''',
    re.DOTALL | re.VERBOSE,
)


class SameOriginOnly:
    """ASGI middleware that keeps pages of other sites out; arguments as in `web.auth.origin`."""

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] | None, proxies: Collection[str]
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = None
        if scope["type"] in ("http", "websocket"):
            reason = self._reason_to_refuse(scope, Headers(scope=scope))
        if reason is None:
            await self._app(scope, receive, _unframed(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await PlainTextResponse(f"{reason}\n", status_code=403)(scope, receive, send)

    def _reason_to_refuse(self, scope: Scope, headers: Headers) -> str | None:
        reason = foreign_host(headers, self._hosts) or foreign_origin(headers, self._proxies)
        if reason is None and scope["type"] == "http" and scope["path"].endswith("/graphql"):
            content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            if scope["method"] != "POST" and b"query" in parse_qs(scope["query_string"]):
                return "refused: send GraphQL by POST"
            if scope["method"] == "POST" and content_type not in _PREFLIGHTED:
                return f"refused: send GraphQL as {' or '.join(_PREFLIGHTED)}"
        return reason


def _unframed(send: Send) -> Send:
    """Forbids frames of other sites, in which people would click unawares."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "SAMEORIGIN"
        await send(message)

    return answer


class TokenRequired:
    """ASGI middleware that serves callers who see everything.

    They send a bearer token, a password, or the cookie of our pages, which covers all ports.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, wrong_tokens: RateLimit) -> None:
        self._app = app
        self._tokens = tokens
        self._wrong_tokens = wrong_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == _OPEN):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            known = self._is_known(connection)
        except ApiError as error:
            refusal = PlainTextResponse(f"{error}\n", error.status, error.headers)
        else:
            if known:
                await self._app(scope, receive, send)
                return
            refusal = PlainTextResponse(
                "log in to the pages at LENS_API_PORT, or give LENS_API_TOKEN as the password\n",
                status_code=401,
                headers={"WWW-Authenticate": 'Basic realm="lens", charset="UTF-8"'},
            )
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "this needs a token"})
        else:
            await refusal(scope, receive, send)

    def _is_known(self, connection: HTTPConnection) -> bool:
        """Raises ApiError 429: too many wrong tokens."""
        token = _token(connection.headers.get("authorization", ""))
        if token is not None:
            owner = self._tokens.read(token)
            if owner is None:
                self._wrong_tokens.count(connection)
        else:
            owner = sessions.read(connection, self._tokens)
        return owner is not None and owner.caller.sees_all


class QueryGuard:
    """ASGI middleware that refuses queries which Dagster answers with a traceback in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_query = scope["type"] == "http" and scope["path"].endswith("/graphql")
        if not is_query or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = Body(receive, headers)
        try:
            query = await body.read(_BODY_BYTES, _BODY_SECONDS)
            _check_query(query, headers.get("content-type", ""))
        except ApiError as error:
            with contextlib.suppress(ClientDisconnect):
                await body.drain()
            # The next request must not begin in this body.
            refusal = PlainTextResponse(f"{error}\n", error.status, {"Connection": "close"})
            await refusal(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, body.replay(query), send)


def _check_query(query: bytes, content_type: str) -> None:
    """Raises ApiError 400: nested too deeply, no JSON, or several queries at once."""
    if "json" not in content_type:
        _check_levels(query.decode(errors="replace"))
        return
    try:
        request = json.loads(query)
        # In one encoding, whatever the client's.
        _check_levels(json.dumps(request))
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "refused: this is no JSON") from None
    if not isinstance(request, dict):
        raise ApiError(400, "invalid_request", "refused: send one query, as a JSON object")
    _check_levels(str(request.get("query")))


def _check_levels(text: str) -> None:
    """Raises ApiError 400: JSON or GraphQL is nested too deeply."""
    brackets = _BRACKETS.findall(_TEXTS.sub("", text))
    if max(accumulate(1 if one in "[({" else -1 for one in brackets), default=0) > _MOST_LEVELS:
        raise ApiError(400, "too_deep", f"refused: nested in more than {_MOST_LEVELS} levels")


def _token(authorization: str) -> str | None:
    """The bearer token or password; None: neither."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value).decode(errors="replace").partition(":")[2]
    except (binascii.Error, ValueError):
        return None


def guarded(app: ASGIApp) -> ASGIApp:
    lens = settings.load()[0]
    access = access_of(lens, Limits())
    store = open_store(lens.resolved_store_url, lens.s3_endpoint)
    app = QueryGuard(DagsterLinks(app, store, lens.public_url, lens.api_port))
    if access.tokens:
        app = TokenRequired(app, access.tokens, access.wrong_tokens)
    return SameOriginOnly(
        app,
        hosts=allowed_hosts(lens.bind, lens.allowed_hosts),
        proxies=frozenset(map(str.lower, lens.allowed_hosts)),
    )


def main() -> None:
    startup.begin("dagster", "webserver")
    raise_connection_limit()
    webserver.serve(guarded, BoundedProtocol)


if __name__ == "__main__":
    main()
