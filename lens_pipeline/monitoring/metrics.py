"""Metrics for Prometheus; their route is not here. Counters start at zero with the process."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lens_pipeline import VERSION
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.derivatives.originals import UnsavedOriginals
from lens_pipeline.derivatives.registry import assets, by_asset
from lens_pipeline.errors import DerivativeError
from lens_pipeline.event_log.counters import FigureLog
from lens_pipeline.monitoring.alerts.monitor import AlertMonitor
from lens_pipeline.monitoring.backlog import Backlog, BacklogMonitor, age_seconds
from lens_pipeline.monitoring.feed import Feed
from lens_pipeline.monitoring.probes.services import ServiceMonitor

# Upper bounds in seconds: a preview takes parts of one, a backlog hours.
LATENCY_BOUNDS = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 7200, 86400)
STAGE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)

# They would double the number of series.
disable_created_metrics()


class EventCounters:
    """Counts materializations and failures. For one thread."""

    def __init__(self, log: FigureLog, registry: CollectorRegistry) -> None:
        self._log = log
        self._made = Counter(
            "lens_processed", "Derivatives made and stored.", ["kind", "asset"], registry=registry
        )
        self._missed = Counter(
            "lens_failed",
            "Attempts that failed, by class of error; permanent: given up on at once.",
            ["kind", "asset", "error_class", "permanent"],
            registry=registry,
        )
        self._latency = Histogram(
            "lens_latency_seconds",
            "From the end of a row's generation to its derivative stored.",
            ["kind", "asset"],
            buckets=LATENCY_BOUNDS,
            registry=registry,
        )
        self._stages = Histogram(
            "lens_stage_seconds",
            "Time of each stage of one file.",
            ["asset", "stage"],
            buckets=STAGE_BOUNDS,
            registry=registry,
        )
        # `increase()` misses the first value of a series: known ones begin with a zero.
        self._kinds = {asset: by_asset(asset).kind.value for asset in assets()}
        for asset, kind in self._kinds.items():
            self._made.labels(kind, asset)
            self._latency.labels(kind, asset)
            for error in _subclasses(DerivativeError):
                self._missed.labels(kind, asset, error.__name__, str(error.permanent).lower())

    def count(self, materialized: Sequence[int], failed: Sequence[int]) -> None:
        """Count events by id. Raises SQLAlchemyError: none is counted."""
        if not materialized and not failed:
            return
        made, missed = self._log.events(materialized, failed)
        for one in made:
            if one.latency is not None:
                self._latency.labels(self._kinds[one.asset], one.asset).observe(one.latency)
            for stage, seconds in one.stages:
                self._stages.labels(one.asset, stage).observe(seconds)
            self._made.labels(self._kinds[one.asset], one.asset).inc()
        for miss in missed:
            kind, permanent = self._kinds[miss.asset], str(miss.permanent).lower()
            self._missed.labels(kind, miss.asset, miss.error_class, permanent).inc()


class PipelineCollector(Collector):
    """Gives what is known now, without asking a service."""

    def __init__(
        self,
        feed: Feed,
        backlog: BacklogMonitor,
        services: ServiceMonitor,
        alerts: AlertMonitor,
    ) -> None:
        self._feed = feed
        self._backlog = backlog
        self._services = services
        self._alerts = alerts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "lens_metrics_loaded",
            "1 once this process reads the event log, and so counts what happens.",
            value=float(self._feed.has_begun),
        )
        if (backlog := self._backlog.latest) is not None:
            yield from _waiting(backlog)
        yield from self._alive()
        yield from self._told()
        yield from self._restarted()
        yield from self._used()
        yield _gauge("lens_build_info", "The version that runs.", "version", {VERSION: 1})

    def _alive(self) -> Iterator[Metric]:
        if (workers := self._services.workers_alive()) is not None:
            text = "Celery workers that answer, by queue."
            yield _gauge("lens_workers_alive", text, "queue", workers)
        if (age := self._services.heartbeat_age_seconds()) is not None:
            yield GaugeMetricFamily(
                "lens_daemon_heartbeat_age_seconds",
                "Seconds since the daemon that launches runs last beat; it does every 30.",
                value=age,
            )

    def _restarted(self) -> Iterator[Metric]:
        text = "How often `lens up` has started a process again."
        family = CounterMetricFamily("lens_restarts", text, labels=["process"])
        for name, one in self._services.restarts().items():
            family.add_metric([name], one.count)
        yield family

    def _used(self) -> Iterator[Metric]:
        labels = ["role", "host", "pid"]
        memory = GaugeMetricFamily(
            "lens_process_memory_bytes",
            "Memory of a process and all that it has started; what they share counts in part.",
            labels=labels,
        )
        cpu = CounterMetricFamily(
            "lens_process_cpu_seconds",
            "CPU time of a process and all that it started.",
            None,
            labels,
        )
        for one in self._services.usage():
            values = [one.role, one.host, str(one.pid)]
            memory.add_metric(values, one.memory_bytes)
            cpu.add_metric(values, one.cpu_seconds)
        yield from (memory, cpu)

    def _told(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "lens_alerts_open",
            "Problems that people were told of; 0 but in the process that sends the alerts.",
            value=self._alerts.open,
        )
        yield GaugeMetricFamily(
            "lens_alert_targets_failing",
            "Addresses of LENS_ALERT_URLS that do not take messages from this process.",
            value=self._alerts.failing_targets,
        )


def _waiting(backlog: Backlog) -> Iterator[Metric]:
    queues = sorted(backlog.queues.items())
    yield _gauge(
        "lens_queue_depth",
        "Runs that no worker has begun, by queue.",
        "queue",
        {queue: load.depth for queue, load in queues},
    )
    yield _gauge(
        "lens_queue_age_seconds",
        "Age of the first of them; 0 if none.",
        "queue",
        {queue: age_seconds(load.since) or 0.0 for queue, load in queues},
    )
    yield _gauge(
        "lens_oldest_unprocessed_seconds",
        "Age of the oldest finished row whose derivative is still to be made; 0 if none.",
        "kind",
        {kind.value: age_seconds(time) or 0.0 for kind, time in sorted(backlog.oldest.items())},
    )
    dead = {kind.value: number for kind, number in sorted(backlog.dead.items())}
    yield _gauge("lens_dead_letters", "Derivatives that were given up on.", "kind", dead)
    yield from _unsaved(backlog.unsaved or {})


def _unsaved(found: Mapping[Kind, UnsavedOriginals]) -> Iterator[Metric]:
    count = GaugeMetricFamily(
        "lens_originals_unsaved",
        "Finished rows whose original is not in the store; late: their picture was made an hour to"
        " 14 days ago, by a run that was to keep it; older: the others.",
        labels=["kind", "rows"],
    )
    age = GaugeMetricFamily(
        "lens_oldest_unsaved_original_seconds",
        "Age of the first of them; 0 if none.",
        labels=["kind", "rows"],
    )
    for kind, both in found.items():
        for rows, unsaved in (("late", both.late), ("older", both.older)):
            count.add_metric([kind.value, rows], unsaved.count)
            age.add_metric([kind.value, rows], age_seconds(unsaved.since) or 0.0)
    yield from (count, age)


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for value_of, value in values.items():
        gauge.add_metric([value_of], value)
    return gauge


def _subclasses(base: type[DerivativeError]) -> Iterator[type[DerivativeError]]:
    for error in base.__subclasses__():
        yield error
        yield from _subclasses(error)
