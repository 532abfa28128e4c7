"""Both kinds of store, the S3 one on a real server."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import ObjectStore
from lens_pipeline.storage.s3_store import S3Store
from lens_pipeline_tests.support.servers import SeaweedServer


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3_store(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A store below a prefix of its own, with the server's credentials in the environment."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store(seaweed.bucket, f"tests/{uuid.uuid4().hex}", seaweed.endpoint)


@pytest.fixture
def file_store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


@pytest.fixture(params=["file_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue(request.param)
