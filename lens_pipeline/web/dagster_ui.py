"""`dagster-webserver`, which other web sites cannot use through the browser of one of our people.

The stock server executes what any page sends to it: a GET of `/graphql?query=mutation…`, which an
image's address is enough for, starts a run. It asks nobody who they are either; ours does, where
LENS_API_TOKEN is set.
"""

import base64
import binascii
from collections.abc import Collection
from urllib.parse import parse_qs

import dagster_webserver.app
import dagster_webserver.cli
from dagster_webserver.cli import main as run_webserver
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import LOGGING_CONFIG

from lens_pipeline import settings
from lens_pipeline.engine.processes import startup
from lens_pipeline.engine.processes.startup import log_as_ours
from lens_pipeline.web.auth import sessions
from lens_pipeline.web.auth.access import Limits, access_of
from lens_pipeline.web.auth.origin import allowed_hosts, foreign_host, foreign_origin
from lens_pipeline.web.auth.rate_limits import RateLimit
from lens_pipeline.web.auth.tokens import Tokens
from lens_pipeline.web.errors import ApiError

# Browsers send these from one site to another only if the other allows it, which Dagster does not.
_PREFLIGHTED = ("application/json", "application/graphql")
# Says which version answers, to whoever starts or watches the server. No other path that ends so:
# those of assets may, and a POST to one writes to the event log.
_OPEN = "/server_info"


class SameOriginOnly:
    """ASGI middleware that refuses what another site's page may have sent.

    `hosts` and `proxies` as in `web.origin`.
    """

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
            await self._app(scope, receive, send)
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


class TokenRequired:
    """ASGI middleware that serves those who may see everything: by LENS_API_TOKEN as a bearer or as
    the password of HTTP's own login, or by the cookie of those who logged in to our pages, which
    browsers send to every port of a host.
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
        """Raises ApiError: this address has sent too many wrong tokens."""
        token = _token(connection.headers.get("authorization", ""))
        if token is not None:
            owner = self._tokens.read(token)
            if owner is None and connection.client is not None:
                self._wrong_tokens.count(connection.client.host)
        else:
            owner = sessions.read(connection, self._tokens)
        return owner is not None and owner.caller.sees_all


def _token(authorization: str) -> str | None:
    """The bearer's token, or the password; None if the header has neither."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value).decode(errors="replace").partition(":")[2]
    except (binascii.Error, ValueError):
        return None


class LensWebserver(DagsterWebserver):
    """Dagster's webserver behind `SameOriginOnly`, and `TokenRequired` if there is a token."""

    def make_security_headers(self) -> dict[str, str]:
        """Also against a page that shows ours in a frame, and has people click there."""
        return {**super().make_security_headers(), "X-Frame-Options": "SAMEORIGIN"}

    def build_middleware(self) -> list[Middleware]:
        lens = settings.load()[0]
        own = Middleware(
            SameOriginOnly,
            hosts=allowed_hosts(lens.bind, lens.allowed_hosts),
            proxies=frozenset(map(str.lower, lens.allowed_hosts)),
        )
        access = access_of(lens, Limits())
        token = (
            [Middleware(TokenRequired, access.tokens, access.wrong_tokens)] if access.tokens else []
        )
        return [own, *token, *super().build_middleware()]


def main() -> None:
    startup.hear()
    log_as_ours(dagster_webserver.cli)
    # Without loggers of its own, uvicorn's lines go where all others do.
    LOGGING_CONFIG["loggers"] = {}
    dagster_webserver.app.DagsterWebserver = LensWebserver  # pyright: ignore[reportPrivateImportUsage]
    run_webserver()


if __name__ == "__main__":
    main()
