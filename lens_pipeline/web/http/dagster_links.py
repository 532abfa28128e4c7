"""What metadata in the Dagster UI link to: pictures, and our pages."""

import re
from io import BytesIO

from anyio import to_thread
from starlette.datastructures import URL
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lens_pipeline.errors import DerivativeError
from lens_pipeline.storage.object_store import ObjectStore

_PAGES = "/lens/"
_PICTURES = "/lens/pictures/"
# Made by us: what others have put into the store is decoded in the sandbox alone.
_OWN = re.compile(
    r"[^/]+/(previews|posters)/[^/]+_(preview|poster)\.webp"
    r"|masters/[^/]+/master_[^/]+_[0-9a-f]{12}\.webp"
)
_EDGE = 256
_MOST_BYTES = 16 * 1024 * 1024
# The largest LENS_PREVIEW_EDGE.
_MOST_PIXELS = 8192 * 8192

_HEADERS = {
    "Cache-Control": "private, max-age=300",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class DagsterLinks:
    """ASGI middleware below the UI's login.

    `/lens/pictures/KEY` is an object of ours in at most 256 pixels. Other addresses below `/lens/`
    lead to the pages and the API at their own port, and stay true when that changes.
    """

    def __init__(
        self, app: ASGIApp, store: ObjectStore, public_url: str | None, api_port: int
    ) -> None:
        self._app = app
        self._store = store
        self._public_url = public_url
        self._api_port = api_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(_PAGES):
            await self._app(scope, receive, send)
        elif path.startswith(_PICTURES):
            picture = await to_thread.run_sync(self._picture, path.removeprefix(_PICTURES))
            await picture(scope, receive, send)
        else:
            await RedirectResponse(self._page(URL(scope=scope)), 307)(scope, receive, send)

    def _page(self, asked: URL) -> str:
        own = asked.replace(port=self._api_port, path="", query="")
        base = (self._public_url or str(own)).rstrip("/")
        query = f"?{asked.query}" if asked.query else ""
        return f"{base}/{asked.path.removeprefix(_PAGES)}{query}"

    def _picture(self, key: str) -> Response:
        # The UI shows few pictures, and other processes of it none.
        from PIL import Image

        if not _OWN.fullmatch(key):
            return PlainTextResponse("there is no such picture\n", 404)
        try:
            with self._store.open(key) as reader:
                reader.select(0, min(reader.info.bytes, _MOST_BYTES))
                data = BytesIO()
                while chunk := reader.read(_MOST_BYTES):
                    data.write(chunk)
        except DerivativeError as error:
            return PlainTextResponse(f"{error}\n", 404)
        small = BytesIO()
        try:
            with Image.open(data, formats=("WEBP",)) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    return PlainTextResponse("the picture is too large\n", 415)
                picture.thumbnail((_EDGE, _EDGE))
                picture.save(small, "WEBP")
        except OSError as error:
            return PlainTextResponse(f"the picture is damaged: {error}\n", 415)
        return Response(small.getvalue(), media_type="image/webp", headers=_HEADERS)
