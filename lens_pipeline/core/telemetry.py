"""Traces by OpenTelemetry and reports of our faults to Sentry, imported only if they are set.

No text of an error goes into a trace, and no query or password of an address into either.
"""

import datetime as dt
import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lens_pipeline import VERSION, settings
from lens_pipeline.core.logs import ids
from lens_pipeline.settings import Settings, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

# A run's `traceparent`: the span that asked for it.
TRACE_TAG = "lens/traceparent"
_HEADER = "traceparent"
# A killed worker loses what it has not sent.
_SEND_EVERY_MS = 1000
# Earlier rows were not waited for.
_WAITED = dt.timedelta(hours=1)
_STAGES = ("fetch", "render", "store")

_QUERY = re.compile(r"(\w+://[^\s?#'\"<>]*)[?#][^\s'\"<>]*")
_CREDENTIALS = re.compile(r"(\w+://)[^\s/@'\"<>]+@")


@functools.cache
def _provider() -> "TracerProvider | None":
    """None: traces are off. Made after any fork."""
    if not settings.traces_wanted():
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = Resource({"service.name": "lens-pipeline", "service.version": VERSION})
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before.
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=_SEND_EVERY_MS)
    )
    return provider


@functools.cache
def _tracer() -> "Tracer | None":
    provider = _provider()
    return provider.get_tracer("lens_pipeline") if provider else None


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, str | int | None] = MappingProxyType({}),
    *,
    parent: str | None = None,
    linked: str | None = None,
    since: dt.datetime | None = None,
) -> Iterator[None]:
    """Trace the block, in the current span or `parent`. `since`: when it began, if earlier.

    `parent` and `linked` are values of `carrier`.
    """
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry import trace

    links = []
    if linked:
        links.append(trace.Link(trace.get_current_span(_context(linked)).get_span_context()))
    with tracer.start_as_current_span(
        name,
        context=_context(parent) if parent else None,
        links=links,
        start_time=_nanoseconds(since) if since else None,
        attributes={f"lens.{key}": value for key, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except BaseException as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def carrier() -> dict[str, str]:
    """A tag that puts a run's spans into the current one."""
    if _tracer() is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(found)
    return {TRACE_TAG: found[_HEADER]} if _HEADER in found else {}


def add_wait(finished_at: dt.datetime | None) -> None:
    """A span from the end of the row's generation to now."""
    now = dt.datetime.now(dt.UTC)
    if finished_at is not None and dt.timedelta(0) < now - finished_at < _WAITED:
        _add("wait", finished_at, now)


def add_stages(metadata: Mapping[str, Any]) -> None:
    """Spans of the stages that ended just now, by their seconds."""
    if _tracer() is None:
        return
    end = dt.datetime.now(dt.UTC)
    for stage in reversed(_STAGES):
        seconds = metadata.get(f"{stage}_seconds")
        if isinstance(seconds, int | float):
            begin = end - dt.timedelta(seconds=seconds)
            _add(stage, begin, end)
            end = begin


def flush(seconds: float) -> None:
    """Send what is left, for at most `seconds`."""
    provider = _provider()
    if provider is not None:
        provider.force_flush(int(seconds * 1000))


def begin_reports(loaded: Settings) -> None:
    """Raises SettingsError. A run that fails because of its file reports no fault."""
    if not loaded.sentry_dsn:
        return
    import sentry_sdk
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration, ignore_logger
    from sentry_sdk.integrations.threading import ThreadingIntegration
    from sentry_sdk.utils import BadDsn

    for name in ("dagster", "dagster.run"):
        ignore_logger(name)
    try:
        sentry_sdk.init(
            dsn=loaded.sentry_dsn,
            release=f"lens-pipeline@{VERSION}",
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[
                DedupeIntegration(),
                ExcepthookIntegration(),
                LoggingIntegration(level=None),
                ThreadingIntegration(propagate_scope=False),
            ],
            # Local variables hold addresses, keys and whole requests.
            include_local_variables=False,
            max_breadcrumbs=0,
            before_send=lambda event, _: _scrubbed({**event, "tags": ids()}),
        )
    except BadDsn:
        raise SettingsError(
            "SENTRY_DSN is no address of a project: copy it from the project's settings"
        ) from None


def report(error: BaseException) -> None:
    if settings.load()[0].sentry_dsn:
        import sentry_sdk

        sentry_sdk.capture_exception(error)


def _add(name: str, begin: dt.datetime, end: dt.datetime) -> None:
    tracer = _tracer()
    if tracer is not None:
        tracer.start_span(name, start_time=_nanoseconds(begin)).end(_nanoseconds(end))


def _context(parent: str) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({_HEADER: parent})


def _nanoseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1e9)


def _scrubbed(value: Any) -> Any:
    """Drop queries and passwords of addresses."""
    if isinstance(value, str):
        return _CREDENTIALS.sub(r"\1…@", _QUERY.sub(r"\1?…", value))
    if isinstance(value, Mapping):
        return {key: _scrubbed(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(one) for one in value]
    return value
