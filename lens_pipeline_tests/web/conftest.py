"""The HTTP app over a site of its own, served to real clients."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from lens_pipeline.core.ports import LOOPBACK
from lens_pipeline.definitions import job
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.monitoring import backlog
from lens_pipeline.monitoring.probes import probe, services
from lens_pipeline.monitoring.probes.probe import Probe
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.tcp_proxy import AppBehindProxy, TcpProxy

_LOOK_SECONDS = 0.3


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app asks services and looks at the backlog more often than each few seconds."""
    monkeypatch.setattr(backlog, "_LOOK_SECONDS", _LOOK_SECONDS)
    monkeypatch.setattr(backlog, "_LETTERS_SECONDS", _LOOK_SECONDS)
    monkeypatch.setattr(probe, "_KEPT_SECONDS", _LOOK_SECONDS)

    def asked_often(
        name: str, look: Callable[[], Any], kept_seconds: float = _LOOK_SECONDS
    ) -> Probe:
        return Probe(name, look, kept_seconds)

    monkeypatch.setattr(services, "Probe", asked_often)


@pytest.fixture
def app(site: Site) -> FastAPI:
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


@pytest.fixture
def guarded_app(site: Site, environment: pytest.MonkeyPatch) -> FastAPI:
    """The same app where LENS_API_TOKEN is set."""
    environment.setenv("LENS_API_TOKEN", "correct-horse-battery-staple")
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


@pytest.fixture
def web(app: FastAPI) -> Iterator[httpx.Client]:
    """Asks the app."""
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def unsteady(site: Site, environment: pytest.MonkeyPatch) -> Iterator[AppBehindProxy]:
    """An app of its own whose databases can be taken away; those of `site` stay."""
    url = sa.make_url(site.database_url)
    with TcpProxy(str(url.host), url.port or 5432) as gate:

        @contextmanager
        def client(**changed: str) -> Iterator[httpx.Client]:
            endpoints = replace(
                site.pipeline.endpoints,
                database_url=_moved(site.database_url, gate.port),
                dagster_url=_moved(site.dagster_url, gate.port),
                **changed,
            )
            pipeline = connect(site.pipeline.settings, endpoints)
            made = create_app(Context(pipeline, RunQueue(pipeline, site.dagster, job)))
            with served(made) as url, httpx.Client(base_url=url, timeout=20) as web:
                yield web

        yield AppBehindProxy(gate, client)


def _moved(url: str, port: int) -> str:
    moved = sa.make_url(url).set(host=LOOPBACK, port=port)
    return moved.render_as_string(hide_password=False)
