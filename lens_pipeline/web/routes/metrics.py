"""`/metrics`: figures for Prometheus, from what the event log and the run tables hold.

None is a counter of this process: each is the same in every process of the app, and after a
restart.
"""

from collections.abc import Iterator

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.responses import Response

from lens_pipeline import VERSION
from lens_pipeline.derivatives.registry import DERIVATIVES
from lens_pipeline.figures import Figures, Tally
from lens_pipeline.monitoring.alerts.monitor import AlertMonitor
from lens_pipeline.monitoring.backlog import Backlog, Watch, age_seconds
from lens_pipeline.monitoring.probes.services import ServiceMonitor
from lens_pipeline.web.auth.caller import CallerDep
from lens_pipeline.web.errors import ApiError

router = APIRouter(tags=["health"])

_KIND = {derivative.asset: derivative.kind.value for derivative in DERIVATIVES}


class PipelineCollector(Collector):
    """What is known now; asks nothing of any service, so it answers whatever is gone."""

    def __init__(
        self, figures: Figures, watch: Watch, monitor: ServiceMonitor, alerts: AlertMonitor
    ) -> None:
        self._figures = figures
        self._watch = watch
        self._monitor = monitor
        self._alert_monitor = alerts

    def collect(self) -> Iterator[Metric]:
        with self._figures.tally() as (tally, is_loaded):
            counted = list(_counted(tally))
        yield from counted
        loaded = GaugeMetricFamily(
            "lens_metrics_loaded",
            "1 once all of the event log's past is in the counters and histograms.",
            value=float(is_loaded),
        )
        yield loaded
        backlog = self._watch.backlog
        if backlog is not None:
            yield from _waiting(backlog)
        yield from self._processes()
        yield from self._alerts()
        build = GaugeMetricFamily("lens_build_info", "The version that runs.", labels=["version"])
        build.add_metric([VERSION], 1)
        yield build

    def _processes(self) -> Iterator[Metric]:
        workers = self._monitor.workers_alive()
        if workers is not None:
            alive = GaugeMetricFamily(
                "lens_workers_alive", "Celery workers that answer, by queue.", labels=["queue"]
            )
            for queue, number in workers.items():
                alive.add_metric([queue], number)
            yield alive
        age = self._monitor.heartbeat_age_seconds()
        if age is not None:
            yield GaugeMetricFamily(
                "lens_daemon_heartbeat_age_seconds",
                "Seconds since the daemon that launches runs last beat; it does every 30.",
                value=age,
            )

    def _alerts(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "lens_alerts_open",
            "Problems that people were told of; 0 but in the process that sends the alerts.",
            value=self._alert_monitor.open,
        )
        yield GaugeMetricFamily(
            "lens_alert_targets_failing",
            "Addresses of LENS_ALERT_URLS that do not take messages from this process.",
            value=self._alert_monitor.failing_targets,
        )


def _counted(tally: Tally) -> Iterator[Metric]:
    made = CounterMetricFamily(
        "lens_processed", "Derivatives made and stored.", labels=["kind", "asset"]
    )
    for asset, kind in _KIND.items():
        made.add_metric([kind, asset], tally.made[asset])
    yield made
    missed = CounterMetricFamily(
        "lens_failed",
        "Attempts that failed, by class of error; permanent: given up on at once.",
        labels=["kind", "asset", "error_class", "permanent"],
    )
    for (asset, error_class, permanent), number in sorted(tally.missed.items()):
        labels = [_KIND[asset], asset, error_class, str(permanent).lower()]
        missed.add_metric(labels, number)
    yield missed
    latency = HistogramMetricFamily(
        "lens_latency_seconds",
        "From the end of a row's generation to its derivative stored.",
        labels=["kind", "asset"],
    )
    for asset, histogram in sorted(tally.latency.items()):
        latency.add_metric([_KIND[asset], asset], histogram.cumulative(), histogram.sum)
    yield latency
    stages = HistogramMetricFamily(
        "lens_stage_seconds", "Time of each stage of one file.", labels=["asset", "stage"]
    )
    for (asset, stage), histogram in sorted(tally.stages.items()):
        stages.add_metric([asset, stage], histogram.cumulative(), histogram.sum)
    yield stages


def _waiting(backlog: Backlog) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "lens_queue_depth", "Runs that no worker has begun, by queue.", labels=["queue"]
    )
    age = GaugeMetricFamily(
        "lens_queue_age_seconds", "Age of the first of them; 0 if none.", labels=["queue"]
    )
    for queue, load in sorted(backlog.queues.items()):
        depth.add_metric([queue], load.depth)
        age.add_metric([queue], age_seconds(load.since) or 0.0)
    yield depth
    yield age
    oldest = GaugeMetricFamily(
        "lens_oldest_unprocessed_seconds",
        "Age of the oldest finished row whose derivative is still to be made; 0 if none.",
        labels=["kind"],
    )
    for kind, moment in sorted(backlog.oldest.items()):
        oldest.add_metric([kind.value], age_seconds(moment) or 0.0)
    yield oldest
    dead = GaugeMetricFamily(
        "lens_dead_letters", "Derivatives that were given up on.", labels=["kind"]
    )
    for kind, number in sorted(backlog.dead.items()):
        dead.add_metric([kind.value], number)
    yield dead


@router.get("/metrics", response_class=Response, include_in_schema=False)
async def metrics(request: Request, caller: CallerDep) -> Response:
    """Figures in Prometheus's text format."""
    if not (caller.may_see_user("") and caller.may_see_project("")):
        raise ApiError(403, "forbidden", "this token covers a part of the figures only")
    registry = CollectorRegistry()
    registry.register(request.app.state.collector)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
