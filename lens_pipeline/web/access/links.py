"""Links to media that a page can embed: signed, for one path, until a time."""

import datetime as dt
import re
import time
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import parse_qs, quote, unquote, urlencode

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from lens_pipeline.web.access.caller import Caller, CallerDep
from lens_pipeline.web.access.keys import signer
from lens_pipeline.web.context import Context, ContextDep
from lens_pipeline.web.errors import ApiError, not_found

router = APIRouter(tags=["links"])

# What may be linked to; these handlers take `MediaCallerDep`.
_OF_GENERATION = re.compile(r"/api/generations/(?P<id>[^/]+)/(preview|poster|file)")
_OF_PROJECT = re.compile(
    r"/api/projects/(?P<id>[^/]+)/(master-videos|scaled-videos|assets)/[^/]+/"
    r"(video|download|poster)"
)
_MOST_PATHS = 200
_LONGEST_PATH = 1000
_WEEK_SECONDS = 7 * 24 * 3600
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
    """Signs paths, and knows its signatures."""

    def __init__(self, key: bytes) -> None:
        self._signer = signer(key, "link")

    def sign(self, path: str, expires: int) -> str:
        """The URL of the decoded `path` that works until `expires`, seconds since 1970."""
        signature = self._signer.get_signature(_signed(path, str(expires))).decode()
        return f"{quote(path)}?{urlencode({'expires': expires, 'signature': signature})}"

    def covers(self, path: str, query: bytes) -> bool:
        """Whether the query string holds a signature that still opens the decoded `path`."""
        values = parse_qs(query.decode("latin-1"))
        expires, signature = values.get("expires", []), values.get("signature", [])
        if len(expires) != 1 or len(signature) != 1 or not _DIGITS.fullmatch(expires[0]):
            return False
        return (
            is_media(path)
            and int(expires[0]) > time.time()
            and self._signer.verify_signature(_signed(path, expires[0]), signature[0].encode())
        )


def is_media(path: str) -> bool:
    """Whether links to this decoded path are given out."""
    return bool(_OF_GENERATION.fullmatch(path) or _OF_PROJECT.fullmatch(path))


@router.post("/api/links")
def make_links(body: LinksIn, request: Request, caller: CallerDep, context: ContextDep) -> LinksOut:
    """Links to pictures and videos that work without a token, each for its path alone."""
    paths = [unquote(path) for path in body.paths]
    _require_visible(context, caller, paths)
    links: Links = request.app.state.access.links
    expires = int(time.time()) + body.seconds
    return LinksOut(
        links=[
            Link(path=given, url=links.sign(path, expires))
            for given, path in zip(body.paths, paths, strict=True)
        ],
        expires_at=dt.datetime.fromtimestamp(expires, dt.UTC),
    )


def _require_visible(context: Context, caller: Caller, paths: Iterable[str]) -> None:
    """Raises ApiError for the first path that is no media's, or not the caller's to see."""
    generations: dict[str, str] = {}
    for path in paths:
        if match := _OF_GENERATION.fullmatch(path):
            generations[match["id"]] = path
        elif match := _OF_PROJECT.fullmatch(path):
            if not caller.may_see_project(match["id"]):
                raise not_found("path", path)
        else:
            raise ApiError(
                400, "invalid_path", f"no picture or video is at {path!r}", field="paths"
            )
    if caller.sees_all or not generations:
        return
    rows = context.pipeline.catalog.library_rows(generations)
    for generation_id, path in generations.items():
        row = rows.get(generation_id)
        if row is None or not caller.may_see_user(row.user_id):
            raise not_found("path", path)


def _signed(path: str, expires: str) -> str:
    return f"{expires} {path}"
