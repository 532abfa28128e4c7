"""Fetchers whose times suit tests."""

from collections.abc import Callable
from typing import Any

from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.object_store import ObjectStore
from lens_pipeline.storage.retries import RetryPolicy

MakeFetcher = Callable[..., Fetcher]


def short_fetcher(store: ObjectStore, **arguments: Any) -> Fetcher:
    """A fetcher with short times that may reach this machine; `arguments` are `Fetcher`'s."""
    defaults: dict[str, Any] = {
        "timeout_seconds": 5.0,
        "max_bytes": 1_000_000,
        "allow_hosts": ("127.0.0.1",),
        "retry": RetryPolicy(3, 0.001, 0.1),
        "recheck_seconds": 0.01,
    }
    return Fetcher(store, **(defaults | arguments))
