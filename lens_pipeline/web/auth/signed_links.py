"""Signed links to media, each for one path and until a time."""

import datetime as dt
import re
import time
from collections.abc import Iterable, Sequence
from typing import Annotated
from urllib.parse import parse_qsl, quote, unquote, urlencode

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from lens_pipeline.web.auth.caller import Caller, CallerDep, KnownUntilDep
from lens_pipeline.web.auth.keys import signer
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, not_found

router = APIRouter(tags=["links"])

# Handlers of these paths take `MediaCallerDep`.
_OF_GENERATION = re.compile(r"/api/generations/(?P<id>[^/]+)/(preview|poster|clip|file)")
_OF_PROJECT = re.compile(
    r"/api/projects/(?P<id>[^/]+)/"
    r"(archive|(master-videos|scaled-videos|assets)/[^/]+/(video|download|poster))"
)
# Its query names the generations.
_ARCHIVE = "/api/generations/archive"
_MOST_PATHS = 200
_LONGEST_PATH = 1000
_WEEK_SECONDS = 7 * 24 * 3600
# In alphabetical order.
_OWN = ("expires", "signature")
_DIGITS = re.compile(r"[0-9]{1,12}")


class LinksIn(BaseModel):
    """Paths as this app gives them in `picture_url`, `video_url` and so on."""

    paths: list[Annotated[str, Field(max_length=_LONGEST_PATH)]] = Field(
        min_length=1, max_length=_MOST_PATHS
    )
    seconds: int = Field(default=3600, ge=1, le=_WEEK_SECONDS)
    """How long they work."""


class Link(BaseModel):
    """What needs no token until it expires."""

    path: str
    url: str


class LinksOut(BaseModel):
    """One link for each path, in the order of the question."""

    links: list[Link]
    expires_at: dt.datetime


class Links:
    def __init__(self, key: bytes) -> None:
        self._signer = signer(key, "link")

    def sign(self, path: str, query: str, expires: int) -> str:
        """The URL of the decoded `path` until `expires`, seconds since 1970."""
        given = parse_qsl(query, keep_blank_values=True)
        asked = [pair for pair in given if pair[0] not in _OWN]
        signature = self._signer.get_signature(_signed(path, asked, str(expires))).decode()
        asked += [("expires", str(expires)), ("signature", signature)]
        return f"{quote(path)}?{urlencode(asked)}"

    def covers(self, path: str, query: bytes) -> bool:
        """Whether `query` signs the decoded `path`."""
        asked = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        own = [pair for pair in asked if pair[0] in _OWN]
        if not is_media(path) or sorted(name for name, _ in own) != list(_OWN):
            return False
        expires, signature = dict(own)["expires"], dict(own)["signature"]
        if not _DIGITS.fullmatch(expires) or int(expires) <= time.time():
            return False
        others = [pair for pair in asked if pair not in own]
        return self._signer.verify_signature(_signed(path, others, expires), signature.encode())


def is_media(path: str) -> bool:
    """Whether the decoded `path` may be signed."""
    of_one = _OF_GENERATION.fullmatch(path) or _OF_PROJECT.fullmatch(path)
    return bool(of_one) or path == _ARCHIVE


@router.post("/api/links")
def make_links(
    body: LinksIn, request: Request, caller: CallerDep, until: KnownUntilDep, context: ContextDep
) -> LinksOut:
    """Links to pictures and videos that work without a token, each for its path alone.

    None outlives the token that it was made by.
    """
    split = [path.partition("?") for path in body.paths]
    _require_visible(context, caller, [(unquote(path), query) for path, _, query in split])
    links: Links = request.app.state.access.links
    wanted = int(time.time()) + body.seconds
    expires = wanted if until is None else min(wanted, until)
    return LinksOut(
        links=[
            Link(path=given, url=links.sign(unquote(path), query, expires))
            for given, (path, _, query) in zip(body.paths, split, strict=True)
        ],
        expires_at=dt.datetime.fromtimestamp(expires, dt.UTC),
    )


def _require_visible(
    context: Context, caller: Caller, addresses: Iterable[tuple[str, str]]
) -> None:
    """Raises ApiError 400 (no media), 404 (not for this caller)."""
    generations: dict[str, str] = {}
    for path, query in addresses:
        if match := _OF_GENERATION.fullmatch(path):
            generations[match["id"]] = path
        elif path == _ARCHIVE:
            ids = ",".join(value for name, value in parse_qsl(query) if name == "ids")
            generations |= dict.fromkeys(filter(None, ids.split(",")), path)
        elif match := _OF_PROJECT.fullmatch(path):
            if not caller.may_see_project(match["id"]):
                raise not_found("path", path)
        else:
            problem = f"no picture or video is at {path!r}"
            raise ApiError(400, "invalid_path", problem, field="paths")
    if caller.sees_all or not generations:
        return
    rows = context.pipeline.catalog.library_rows(generations)
    for generation_id, path in generations.items():
        row = rows.get(generation_id)
        if row is None or not caller.may_see_user(row.user_id):
            raise not_found("path", path)


def _signed(path: str, query: Sequence[tuple[str, str]], expires: str) -> str:
    return f"{expires} {quote(path)}?{urlencode(query)}"
