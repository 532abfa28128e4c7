"""Real servers for the doctor to examine, and settings under which all is well."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.core.ports import free_port
from lens_pipeline.engine.dagster_storage.storage import create_tables
from lens_pipeline.settings import PREFIX, Settings
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.support.database_server import Servers
from lens_pipeline_tests.support.servers import SeaweedServer


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("doctor") / "home"
    with running(Settings(home=home), broker=True, command="tests") as endpoints:
        catalog = Catalog(endpoints.database_url)
        catalog.migrate()
        catalog.close()
        create_tables(endpoints.dagster_url)
        kept = json.loads((home / "postgres" / "connection.json").read_text())
        admin = {
            "host": "127.0.0.1",
            "port": str(kept["port"]),
            "user": "postgres",
            "password": kept["passwords"]["postgres"],
        }
        made = Servers(endpoints, admin)
        made.execute("CREATE DATABASE empty OWNER lens")
        made.execute("CREATE ROLE stranger LOGIN PASSWORD 'known'")
        yield made


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def well(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Settings]:
    """Settings under which every check is fine, but for what is given."""
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    usual: dict[str, object] = {
        "home": tmp_path / "home",
        "database_url": servers.endpoints.database_url,
        "broker_url": servers.endpoints.broker_url,
        "dagster_port": free_port(),
        "api_port": free_port(),
    }

    def settings(**changes: object) -> Settings:
        return Settings.model_validate({**usual, **changes})

    return settings
