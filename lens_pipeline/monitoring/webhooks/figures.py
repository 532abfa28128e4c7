"""Metrics of deliveries, by target."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Upper bounds in seconds: within two all is well, an outage takes hours.
_BOUNDS = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 7200, 86400)


class Figures:
    def __init__(
        self, registry: CollectorRegistry, names: Iterable[str], late: Callable[[str], float]
    ) -> None:
        """`late`: seconds by the name of a target."""
        self._outcomes = Counter(
            "lens_webhooks",
            "Deliveries of messages: delivered, failed (tried again), given_up.",
            ["target", "outcome"],
            registry=registry,
        )
        self._latency = Histogram(
            "lens_webhook_latency_seconds",
            "From an event to its message taken at the first try; a replay counts in full.",
            ["target"],
            buckets=_BOUNDS,
            registry=registry,
        )
        age = Gauge(
            "lens_webhook_late_seconds",
            "Since when the first of the messages that wait for a repetition failed; 0 if none"
            " does, and in processes that do not deliver.",
            ["target"],
            registry=registry,
        )
        for name in names:
            age.labels(name).set_function(lambda name=name: late(name))
            self._latency.labels(name)
            for outcome in ("delivered", "failed", "given_up"):
                self._outcomes.labels(name, outcome)

    def took(self, target: str, seconds: float, *, is_first_try: bool) -> None:
        self._outcomes.labels(target, "delivered").inc()
        if is_first_try:
            self._latency.labels(target).observe(seconds)

    def refused(self, target: str, *, is_given_up: bool) -> None:
        self._outcomes.labels(target, "given_up" if is_given_up else "failed").inc()
