"""A hostile server, and fetchers that may reach it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.retries import RetryPolicy
from lens_pipeline_tests.support.servers import HostileServer

MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def make_fetcher(store: FileStore) -> Iterator[MakeFetcher]:
    """Fetchers with short times; keyword arguments as those of `Fetcher`."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> Fetcher:
            defaults: dict[str, Any] = {
                "timeout_seconds": 5.0,
                "max_bytes": 1_000_000,
                "allow_hosts": ("127.0.0.1",),
                "retry": RetryPolicy(3, 0.001, 0.1),
                "recheck_seconds": 0.01,
            }
            return stack.enter_context(Fetcher(store, **(defaults | arguments)))

        yield make


@pytest.fixture
def fetcher(make_fetcher: MakeFetcher) -> Fetcher:
    return make_fetcher()
