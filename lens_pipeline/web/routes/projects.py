"""The list of projects."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.context import ContextDep
from lens_pipeline.web.errors import ApiError

router = APIRouter(tags=["projects"])


class Projects(BaseModel):
    """Ids of projects: those with the latest masters first, then others that have assets."""

    projects: list[str]


@router.get("/api/projects")
def list_projects(
    caller: CallerDep, context: ContextDep, limit: Annotated[int, Query(ge=1, le=200)] = 100
) -> Projects:
    """Projects that have masters or assets and that the caller may see."""
    if caller.user_id is not None:
        raise ApiError(403, "forbidden", "this token does not cover projects")
    if caller.project_id is not None:
        return Projects(projects=[caller.project_id])
    return Projects(projects=context.pipeline.catalog.project_ids(limit))
