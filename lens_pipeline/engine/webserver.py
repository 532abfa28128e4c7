"""`dagster-webserver`, which other web sites cannot use through the browser of one of our people.

The stock server executes what any page sends to it: a GET of `/graphql?query=mutation…`, which an
image's address is enough for, starts a run.
"""

from collections.abc import Collection
from urllib.parse import parse_qs

import dagster_webserver.app
from dagster_webserver.cli import main as run_webserver
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lens_pipeline import settings
from lens_pipeline.web.origin import allowed_hosts, foreign_host, foreign_origin

# Browsers send these from one site to another only if the other allows it, which Dagster does not.
_PREFLIGHTED = ("application/json", "application/graphql")


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


class LensWebserver(DagsterWebserver):
    """Dagster's webserver behind `SameOriginOnly`."""

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
        return [own, *super().build_middleware()]


def main() -> None:
    dagster_webserver.app.DagsterWebserver = LensWebserver  # pyright: ignore[reportPrivateImportUsage]
    run_webserver()


if __name__ == "__main__":
    main()
