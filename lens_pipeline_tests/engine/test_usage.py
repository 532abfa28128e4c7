"""What a process publishes of itself, against failures of the machine."""

import threading

import pytest

from lens_pipeline.engine.processes import usage


def test_a_figure_that_cannot_be_read_is_published_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that has no file descriptor left for a moment, and no figures ever after."""
    published = threading.Event()
    measure, failures = usage.measure, [OSError(24, "Too many open files")]

    def measure_later(role: str) -> usage.Usage:
        if failures:
            raise failures.pop()
        return measure(role)

    monkeypatch.setattr(usage, "_PUBLISH_SECONDS", 0.01)
    monkeypatch.setattr(usage, "measure", measure_later)
    monkeypatch.setattr(usage, "publish_once", lambda *_: published.set())
    usage.publish("api", "postgresql://127.0.0.1:9/none")
    assert published.wait(10)
