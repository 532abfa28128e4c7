"""Background work of the app: it follows the event log for pages, metrics, views and alerts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from lens_pipeline.event_log.counters import FigureLog
from lens_pipeline.monitoring.alerts.monitor import AlertMonitor
from lens_pipeline.monitoring.backlog import BacklogMonitor
from lens_pipeline.monitoring.feed import Feed
from lens_pipeline.monitoring.metrics import EventCounters, PipelineCollector
from lens_pipeline.monitoring.probes.services import ServiceMonitor
from lens_pipeline.monitoring.view_sync import ViewWriter
from lens_pipeline.monitoring.webhooks.dispatcher import WebhookDispatcher
from lens_pipeline.web.context import Context
from lens_pipeline.web.routes.events import EventBroadcaster

# A thread that hangs longer ends with the process.
_STOP_SECONDS = 2.0


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    """The lifespan of the app; no service need be there yet."""
    context: Context = app.state.context
    log = FigureLog(context.pipeline.endpoints.dagster_url)
    registry = CollectorRegistry()
    backlog = BacklogMonitor(context.pipeline, log)
    view = ViewWriter(context.pipeline)
    broadcaster = EventBroadcaster(asyncio.get_running_loop())
    monitor = ServiceMonitor(context.pipeline, context.queue.instance)
    webhooks = WebhookDispatcher(context.pipeline, context.queue.instance, registry)
    feed = Feed(
        context.pipeline,
        listeners=(broadcaster.tell, backlog.tell, view.tell, monitor.tell, webhooks.tell),
        count=EventCounters(log, registry).count,
    )
    alerts = AlertMonitor(
        context.pipeline, context.queue.instance, backlog, log, monitor, webhooks.troubles
    )
    app.state.broadcaster, app.state.feed, app.state.monitor = broadcaster, feed, monitor
    app.state.backlog, app.state.alerts = backlog, alerts
    registry.register(PipelineCollector(feed, backlog, monitor, alerts))
    app.state.metrics = registry
    workers = (feed, backlog, view, webhooks, alerts)
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stops = (asyncio.to_thread(worker.stop, _STOP_SECONDS) for worker in workers)
        await asyncio.gather(*stops)
        log.close()
