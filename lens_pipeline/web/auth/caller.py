"""Who asks, and what they may see."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from lens_pipeline.web.errors import unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may use the app; a user or project restricts what they see to its own."""

    user_id: str | None = None
    project_id: str | None = None

    @property
    def sees_all(self) -> bool:
        return self.user_id is None and self.project_id is None

    def may_see_user(self, user_id: str) -> bool:
        """Whether generations of this user are theirs to see."""
        return self.project_id is None and self.user_id in (None, user_id)

    def may_see_project(self, project_id: str) -> bool:
        """Whether masters and assets of this project are theirs to see."""
        return self.user_id is None and self.project_id in (None, project_id)


def caller(request: Request) -> Caller:
    """Who sent the request, as the gate found; raises ApiError if it found nobody."""
    found: Caller | None = getattr(request.state, "caller", None)
    if found is None:
        raise unauthorized()
    return found


def media_caller(request: Request) -> Caller:
    """The same; or the bearer of a signed link, whose maker might see what it leads to."""
    return Caller() if getattr(request.state, "linked", False) else caller(request)


def known_until(request: Request) -> int | None:
    """When the caller's token or login ends, seconds since 1970; None: never."""
    return getattr(request.state, "known_until", None)


CallerDep = Annotated[Caller, Depends(caller)]

# For what pages embed, which may also be reached by a signed link.
MediaCallerDep = Annotated[Caller, Depends(media_caller)]

# For what outlasts the request.
KnownUntilDep = Annotated[int | None, Depends(known_until)]
