"""A hostile server, and fetchers that may reach it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lens_pipeline.storage.download import Fetcher
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline_tests.storage.download.fetchers import MakeFetcher, short_fetcher
from lens_pipeline_tests.support.servers import HostileServer


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
    """Keyword arguments are those of `Fetcher`."""
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(short_fetcher(store, **arguments))


@pytest.fixture
def fetcher(make_fetcher: MakeFetcher) -> Fetcher:
    return make_fetcher()
