"""A request's caller and what it may see."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from lens_pipeline.web.errors import ApiError, unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """A client; a user or project restricts it to its own rows."""

    user_id: str | None = None
    project_id: str | None = None

    @property
    def sees_all(self) -> bool:
        return self.user_id is None and self.project_id is None

    def may_see_user(self, user_id: str) -> bool:
        return self.project_id is None and self.user_id in (None, user_id)

    def may_see_project(self, project_id: str) -> bool:
        return self.user_id is None and self.project_id in (None, project_id)


def caller(request: Request) -> Caller:
    """Raises ApiError 401: the gate found none."""
    found: Caller | None = getattr(request.state, "caller", None)
    if found is None:
        raise unauthorized()
    return found


def is_linked(request: Request) -> bool:
    """Whether a signed link asks."""
    return getattr(request.state, "linked", False)


def media_caller(request: Request) -> Caller:
    """A signed link counts as a caller, too. Raises ApiError 401."""
    return Caller() if is_linked(request) else caller(request)


def known_until(request: Request) -> int | None:
    """The end of the token or login, seconds since 1970; None: never."""
    return getattr(request.state, "known_until", None)


CallerDep = Annotated[Caller, Depends(caller)]
MediaCallerDep = Annotated[Caller, Depends(media_caller)]
KnownUntilDep = Annotated[int | None, Depends(known_until)]


def all_seeing_caller(found: CallerDep) -> None:
    """Raises ApiError 401; 403: it is bound to a user or project."""
    if not found.sees_all:
        raise ApiError(403, "forbidden", "this needs LENS_API_TOKEN itself")
