"""Whether everything works: for load balancers, monitoring and `lens up`."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

router = APIRouter(tags=["health"])


class Live(BaseModel):
    """This process answers."""

    status: Literal["live"] = "live"


@router.get("/health/live", include_in_schema=False)
@router.get("/api/health/live")
def live() -> Live:
    """Whether this process answers, whatever else is gone."""
    return Live()
