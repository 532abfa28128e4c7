"""The route of `/metrics`, for Prometheus."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.errors import ApiError

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def metrics(request: Request, caller: CallerDep) -> Response:
    """Figures in Prometheus's text format."""
    if not (caller.may_see_user("") and caller.may_see_project("")):
        raise ApiError(403, "forbidden", "this token covers a part of the figures only")
    return Response(generate_latest(request.app.state.metrics), media_type=CONTENT_TYPE_LATEST)
