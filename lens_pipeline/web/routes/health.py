"""`/api/health`: the answers of the probes, for load balancers, monitoring and `lens up`."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from lens_pipeline import VERSION
from lens_pipeline.monitoring.backlog import age_seconds

router = APIRouter(tags=["health"])


class Live(BaseModel):
    """This process answers."""

    status: Literal["live"] = "live"


class Health(BaseModel):
    """What works; each service is `ok`, or says what is wrong with it."""

    status: Literal["ok", "unavailable"]
    """`ok` if every service is, and at least one worker lives on each queue."""
    version: str
    database: str
    broker: str
    store: str
    daemon: str
    workers: int | None
    """Workers that answer, on any machine; None: not known."""
    queues_without_worker: list[str]
    """Of those that are known: what is queued there is not worked on."""
    oldest_unprocessed_seconds: float | None
    """Age of the oldest finished row whose derivative is still to be made; None: there is none."""
    alerts: str
    """`off`, `ok`, or which target does not take messages, which makes nothing else unavailable."""


_GONE: dict[int | str, dict[str, Any]] = {
    503: {"model": Health, "description": "Something is gone."}
}


# Async: all threads may be waiting for a service that hangs. Many probes ask by HEAD.
@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", include_in_schema=False)
@router.head("/api/health/live")
@router.get("/api/health/live")
async def live() -> Live:
    """Whether this process answers, whatever else is gone."""
    return Live()


@router.head("/health", include_in_schema=False)
@router.get("/health", include_in_schema=False)
@router.head("/api/health", responses=_GONE)
@router.get("/api/health", responses=_GONE)
async def health(request: Request, response: Response) -> Health:
    """Whether everything works: 200, or 503 and what does not."""
    state = request.app.state
    seen = await state.monitor.look()
    backlog = state.backlog.latest
    response.status_code = 200 if seen.is_well else 503
    response.headers["Cache-Control"] = "no-store"
    return Health(
        status="ok" if seen.is_well else "unavailable",
        version=VERSION,
        **{name: problem or "ok" for name, problem in seen.problems.items()},
        workers=None if seen.workers is None else sum(seen.workers.values()),
        queues_without_worker=sorted(q for q, n in (seen.workers or {}).items() if not n),
        oldest_unprocessed_seconds=age_seconds(backlog.oldest_of_all) if backlog else None,
        alerts=state.alerts.status(),
    )
