"""What `/api/openapi.json` promises is true, whatever is sent."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline_tests.providers.provider_server import ProviderServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.web.auth.gate_app import BEARER, TOKEN, client_of

# Of each operation; one second all in all for every ten.
_EXAMPLES = 25
_SEED = 20_261


@pytest.fixture
def provider(environment: pytest.MonkeyPatch) -> Iterator[None]:
    """A provider that is there, so that what needs it is tried to the end."""
    with ProviderServer() as server:
        server.say("t1", "success", "https://example.org/p1.jpg")
        for name, value in server.settings.items():
            environment.setenv(name, value)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("provider")
def test_the_api_is_as_described(site: Site, web: httpx.Client, tmp_path: Path) -> None:
    site.add("p1", "https://example.org/p1.jpg", task_id="t1")
    _try(web.base_url, tmp_path, "examples,coverage,fuzzing", _EXAMPLES)


@pytest.mark.slow
@pytest.mark.usefixtures("provider")
def test_where_a_token_is_set_it_is_needed_as_described(
    site: Site, guarded_app: FastAPI, tmp_path: Path
) -> None:
    """A document that says who may ask, and an app that asks others, or nobody."""
    site.add("p1", "https://example.org/p1.jpg", task_id="t1")
    with client_of(guarded_app) as client:
        document = client.get("/api/openapi.json", headers=BEARER).json()
        assert document["paths"]["/api/generations"]["get"]["security"] == [{"token": []}]
        assert document["paths"]["/api/health/live"]["get"]["security"] == []
        _try(client.base_url, tmp_path, "coverage", 1, "--header", f"Authorization: Bearer {TOKEN}")


def _try(url: httpx.URL, directory: Path, phases: str, examples: int, *more: str) -> None:
    arguments = [
        *("run", f"{url}/api/openapi.json"),
        *("--phases", phases),
        *("--max-examples", str(examples)),
        *("--seed", str(_SEED)),
        *("--generation-database", "none"),
        # Ends only with the connection.
        *("--exclude-path", "/api/events"),
        # Of a site without daemon and workers it is rightly a 503: see test_health.
        *("--exclude-path", "/api/health"),
        # Cursors and ids of rows are strings that only this app gives out.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--request-timeout", "20"),
        "--no-color",
        *more,
    ]
    run = subprocess.run(
        [Path(sys.executable).with_name("st"), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
