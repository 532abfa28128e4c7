"""Errors as JSON: a stable code for programs and a message for people."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from lens_pipeline.catalog.errors import CatalogError, MastersOff, NoRightToWrite
from lens_pipeline.core.logs import request_id
from lens_pipeline.derivatives.library import InvalidCursor
from lens_pipeline.errors import StoreUnavailable
from lens_pipeline.storage.object_store import StoreRefused

logger = logging.getLogger(__name__)

# Retry-After when a service is gone.
_RETRY_SECONDS = "5"
_STORE_GONE = ("store", "the object store cannot be read now")
_OUTAGES: dict[type[Exception], tuple[str, str]] = {
    CatalogError: ("database", "the application's database does not answer now"),
    DBAPIError: ("database", "Dagster's database does not answer now"),
    PoolExhausted: ("database", "too many others wait for a database"),
    StoreUnavailable: _STORE_GONE,
    StoreRefused: _STORE_GONE,
}
_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class Problem(BaseModel):
    """What every error answer holds."""

    error: str
    """Stable code in snake case."""
    message: str
    request_id: str | None
    """Of the lines of this request in the log."""


DESCRIBED: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The request is not valid.",
        401: "It needs a token.",
        403: "The token does not cover it.",
        404: "There is none, or none that the token covers.",
        408: "The body took too long.",
        413: "The body is too large.",
        414: "The address is too long.",
        415: "The body is no application/json, or a file of another kind.",
        429: "Too many requests; Retry-After says when to come again.",
        503: "A service that is needed is gone; Retry-After says when to come again.",
    }.items()
}


class ApiError(Exception):
    """An error answer; `more`: further fields of its body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers
        self.more = more

    def response(self) -> JSONResponse:
        body = {"error": self.code, "message": str(self), **self.more}
        body["request_id"] = request_id.get()
        return JSONResponse(body, status_code=self.status, headers=dict(self.headers or {}))


def not_found(what: str, which: str) -> ApiError:
    """Also for what the caller may not see."""
    return ApiError(404, "not_found", f"no {what} has the id {which[:200]!r}")


def unauthorized(message: str = "this needs a token", error: str | None = None) -> ApiError:
    """`error`: RFC 6750's code for a bad token."""
    challenge = 'Bearer realm="lens"' + (f', error="{error}"' if error else "")
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": challenge})


def unavailable(service: str, reason: str) -> ApiError:
    return ApiError(503, f"{service}_unavailable", reason, headers={"Retry-After": _RETRY_SECONDS})


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(InvalidCursor, _invalid_cursor)
    app.add_exception_handler(NoRightToWrite, _no_right_to_write)
    app.add_exception_handler(MastersOff, _masters_off)
    for failure, (service, reason) in _OUTAGES.items():
        app.add_exception_handler(failure, _outage(service, reason))
    app.add_exception_handler(Exception, _unforeseen)


async def _api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)  # noqa: S101
    return error.response()


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    # FastAPI leaves bodies of other types unparsed: other sites' forms can send those.
    if first["loc"] == ("body",) and isinstance(error.body, bytes) and error.body:
        problem = "send it with Content-Type: application/json"
        return ApiError(415, "unsupported_media_type", problem).response()
    name = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return ApiError(400, "invalid_request", f"{name}: {first['msg']}", field=name).response()


async def refused(request: Request, error: Exception) -> JSONResponse:
    """The answer where no route takes the request."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = _CODES.get(error.status_code, f"http_{error.status_code}")
    headers = error.headers
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_allowed(request))}
    return ApiError(error.status_code, code, error.detail, headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """All methods of the path; Starlette names those of one route."""
    matching: dict[str, set[str]] = {}
    for route in iter_route_contexts(request.app.routes):
        if route.original_route.matches(request.scope)[0] is not Match.NONE:
            matching.setdefault(route.path or "", set()).update(route.methods or ())
    # The last part of a path may also match the id in another one.
    return sorted(matching[min(matching, key=lambda path: path.count("{"))])


async def _invalid_cursor(_: Request, error: Exception) -> JSONResponse:
    return ApiError(400, "invalid_cursor", str(error), field="cursor").response()


async def _no_right_to_write(_: Request, error: Exception) -> JSONResponse:
    logger.warning("%s", error)
    return ApiError(503, "no_right_to_write", str(error)).response()


async def _masters_off(_: Request, error: Exception) -> JSONResponse:
    return ApiError(404, "masters_off", str(error)).response()


def _outage(service: str, reason: str) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def handler(_: Request, error: Exception) -> JSONResponse:
        logger.warning("%s: %s", reason, str(error).partition("\n")[0])
        return unavailable(service, reason).response()

    return handler


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return ApiError(500, "internal_error", "this is a fault of ours; it is in the log").response()
