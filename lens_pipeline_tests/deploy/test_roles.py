"""Every process alone in the foreground, as containers and units run it, behind the proxy."""

import base64
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx2 as httpx
import pytest

from lens_pipeline.core.ports import free_port
from lens_pipeline.engine.dagster_storage.storage import DagsterPostgresStorage
from lens_pipeline.engine.liveness import heartbeat_age_seconds
from lens_pipeline_tests.deploy.roles import (
    BEARER,
    COMMANDS,
    TOKEN,
    Roles,
    roles_on_servers,
)
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import eventually
from lens_pipeline_tests.tools import find

pytestmark = [pytest.mark.slow, pytest.mark.stack]

DEPLOY = Path(__file__).parents[2] / "deploy"


def launch(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    # As a script begins what is to run in its background.
    deaf = ("env", "--ignore-signal=INT")
    with log.open("wb") as output:
        return subprocess.Popen(
            [*deaf, sys.executable, "-m", "lens_pipeline.cli", *arguments],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    """Servers without a table; no role runs."""
    with roles_on_servers(tmp_path_factory.mktemp("roles"), launch) as roles:
        yield roles


@pytest.fixture(scope="module")
def roles(bare: Roles) -> Roles:
    """All of them, at work."""
    status, said = bare.run("api", "migrate")
    assert status == 0, said
    bare.start()
    return bare


def test_a_role_without_its_tables_says_what_to_do_in_one_line(bare: Roles) -> None:
    """A container that restarts for ever, and a traceback that does not say why."""
    missing = "lens: Dagster's database lacks its tables: run `lens migrate`\n"
    assert bare.run("daemon", "run", "daemon") == (2, missing)


def test_a_photo_goes_through_separate_processes(roles: Roles, server: HostileServer) -> None:
    """Roles that only find each other under `lens up`, where they share one LENS_HOME."""
    url = server.put("/one.jpg", sources.jpeg()).replace("127.0.0.1", "localhost")
    roles.add_photo("one", url)
    path = roles.await_ready("one")["path"]
    kept = roles.store.client().get_object(Bucket=roles.store.bucket, Key=path)
    assert kept["ContentType"] == "image/webp"


def test_the_doctor_knows_the_servers_of_other_roles(roles: Roles) -> None:
    """A doctor that asks to stop a process which is the pipeline's own."""
    status, said = roles.run("api", "doctor")
    # No worker takes masters here, and the doctor says so.
    (fault,) = [line for line in said.splitlines() if not line.startswith("ok ")]
    assert fault.startswith("FAIL workers: 0 of masters, 1 of previews: start `lens worker --queue")
    assert status == 1
    assert f"the HTTP app answers at {roles.ports['api']}" in said
    assert f"the Dagster UI answers at {roles.ports['dagster']}" in said


def test_health_is_asked_without_a_role(roles: Roles) -> None:
    """A health check of the image that fits only one of the roles."""
    for role in COMMANDS:
        assert roles.run(role, "health") == (0, f"{role} lives\n")
    status, said = roles.run("elsewhere", "health")
    assert status == 2
    assert "name the role" in said
    absent = "lens: the worker of masters has not begun\n"
    assert roles.run("elsewhere", "health", "worker-masters") == (1, absent)


def test_the_daemons_heartbeat_is_the_one_that_dagster_reads(roles: Roles) -> None:
    """A heartbeat that two readers date a few hours apart, because of a time zone."""
    storage = DagsterPostgresStorage(roles.endpoints.dagster_url, should_autocreate_tables=False)
    heartbeats = storage.run_storage.get_daemon_heartbeats()
    age = time.time() - heartbeats["QUEUED_RUN_COORDINATOR"].timestamp
    assert age < 90
    assert heartbeat_age_seconds(roles.endpoints.dagster_url) == pytest.approx(age, abs=35)
    assert roles.lives("daemon")


def caddy(roles: Roles, site: str, dagster: str, directory: Path) -> subprocess.Popen[bytes]:
    environment = {
        "HOME": str(directory),
        "SITE": site,
        "DAGSTER_SITE": dagster,
        "API": f"127.0.0.1:{roles.ports['api']}",
        "DAGSTER": f"127.0.0.1:{roles.ports['dagster']}",
    }
    own = directory / "Caddyfile"
    # Its default port for administration may be in use.
    own.write_text((DEPLOY / "Caddyfile").read_text().replace("{\n", "{\n\tadmin off\n", 1))
    return subprocess.Popen(
        [find("caddy"), "run", "--config", str(own), "--adapter", "caddyfile"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )


def nginx(roles: Roles, site: str, dagster: str, directory: Path) -> subprocess.Popen[bytes]:
    """Without TLS and the port that only root may open."""
    text = re.sub(r"\n +ssl_certificate.*", "", (DEPLOY / "nginx.conf").read_text())
    for ours, here in (
        ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
        ("listen 443 ssl http2;", f"listen {site.rpartition('/')[2]};"),
        ("listen 192.0.2.1:3000 ssl;", f"listen {dagster.rpartition('/')[2]};"),
        ("127.0.0.1:8000", f"127.0.0.1:{roles.ports['api']}"),
        ("127.0.0.1:3000;", f"127.0.0.1:{roles.ports['dagster']};"),
        ("/var/log/nginx/", ""),
        ("https://lens.example.com/", f"{site}/"),
    ):
        assert ours in text, ours
        text = text.replace(ours, here)
    own = directory / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {kind};" for kind in kinds)
    # One process reads and writes as we do.
    own.write_text(
        f"daemon off; master_process off; pid pid; events {{}}\nhttp {{ {paths} {text} }}\n"
    )
    return subprocess.Popen([find("nginx"), "-p", str(directory), "-e", "log", "-c", str(own)])


@pytest.fixture(params=[caddy, nginx])
def proxy(
    request: pytest.FixtureRequest, roles: Roles, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """A proxy with our configuration; yields the addresses of the pages and of Dagster's UI."""
    site, dagster = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    process = request.param(roles, site, dagster, tmp_path)
    try:
        eventually(lambda: process.poll() is None and answers(site), 20, "the proxy")
        yield site, dagster
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=5)
    except httpx.TransportError:
        return False
    return True


def test_the_proxy_lets_nobody_at_dagster_without_a_login(
    roles: Roles, proxy: tuple[str, str]
) -> None:
    """A UI that runs code without a login, or an API that answers at one of its addresses only."""
    site, dagster = proxy
    for path in ("/health", "/api/health"):
        assert httpx.get(site + path, timeout=20).json()["database"] == "ok"
    for path in ("/generations/one", "/api/generations/one"):
        assert httpx.get(site + path).status_code == 401
        assert httpx.get(site + path, headers=BEARER).json()["status"] == "ready"
    assert httpx.get(f"{site}/metrics", headers=BEARER).status_code == 404

    # A person is sent to the login of the pages, a program is refused; nothing reached Dagster.
    page = httpx.get(f"{dagster}/runs", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, f"{site}/login?next=/library")
    query = {"query": "{ version }"}
    assert httpx.post(f"{dagster}/graphql", json=query).status_code == 401
    login = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    answer = httpx.post(
        f"{dagster}/graphql", json=query, headers={"Authorization": f"Basic {login}"}
    )
    assert "version" in answer.json()["data"]


def test_the_proxy_serves_every_path_of_the_api_without_its_prefix(
    roles: Roles, proxy: tuple[str, str]
) -> None:
    """A new route that old callers without the prefix do not reach."""
    site, _ = proxy
    document = httpx.get(f"http://127.0.0.1:{roles.ports['api']}/api/openapi.json", headers=BEARER)
    for path in document.json()["paths"]:
        if path.startswith("/api/"):
            # What a stranger is answered: only the API does so in JSON.
            prefixed, bare = (
                httpx.get(site + re.sub("{.*?}", "x", one), timeout=20)
                for one in (path, path.removeprefix("/api"))
            )
            assert bare.status_code == prefixed.status_code, path
            assert bare.json().get("error") == prefixed.json().get("error"), path


def test_a_restart_of_one_after_the_other_loses_nothing(
    roles: Roles, server: HostileServer
) -> None:
    """A deployment during work after which photos are missing or were made twice."""
    url = server.put("/rolling.jpg", sources.jpeg()).replace("127.0.0.1", "localhost")
    rows = []
    for role in ("worker-previews", "code", "daemon", "dagster", "api"):
        for moment in ("before", "after"):
            row = f"{moment}-{role}"
            rows.append(row)
            roles.add_photo(row, url)
            if moment == "before":
                assert roles.restart(role) == 0
    for row in rows:
        roles.await_ready(row)
    made = roles.times_made()
    assert {row: made[row] for row in rows} == dict.fromkeys(rows, 1)


def test_sigterm_ends_every_role_in_order(roles: Roles) -> None:
    """A role that ignores SIGTERM, and is killed while it writes a file."""
    statuses = roles.stop()
    assert set(statuses.values()) == {0}, statuses
