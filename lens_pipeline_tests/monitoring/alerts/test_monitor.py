"""Alerts as a process sends them, received by a mail server and a web hook."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from lens_pipeline.core.locks import LockSession, alerts_lock
from lens_pipeline.core.restarts import Restarts
from lens_pipeline.definitions import job
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.counters import FigureLog
from lens_pipeline.monitoring.alerts.monitor import AlertMonitor
from lens_pipeline.monitoring.backlog import BacklogMonitor
from lens_pipeline.monitoring.probes.host import DiskMonitor, Space
from lens_pipeline.monitoring.probes.services import ServiceHealth, ServiceMonitor
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.monitoring.alerts.receivers import Hook, Mailbox
from lens_pipeline_tests.support.hanging_mount import HangingMount
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

# Of the monitor's clock in these tests, to a second of ours.
SPEED = 60


class Services(ServiceMonitor):
    """Probes that find all well, but for what a test changes."""

    def __init__(self) -> None:
        self.problems: dict[str, str | None] = dict.fromkeys(
            ("database", "broker", "store", "daemon")
        )
        self.workers: dict[str, int] = dict.fromkeys(QUEUES, 1)

    async def look(self) -> ServiceHealth:
        return ServiceHealth(self.problems, self.workers)

    def restarts(self) -> dict[str, Restarts]:
        return {}


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as started:
        yield started


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as started:
        yield started


@pytest.fixture
def alerted(site: Site, hook: Hook, mailbox: Mailbox, environment: pytest.MonkeyPatch) -> Site:
    """The site, whose alerts go to both."""
    environment.setenv("LENS_ALERT_URLS", f"{hook.url},{mailbox.url}")
    environment.setenv("LENS_DAGSTER_PUBLIC_URL", "https://dagster.example.org/")
    environment.setenv("LENS_ALERT_DISK_FREE_PERCENT", "0")
    return site


@contextmanager
def _monitor(
    site: Site, services: ServiceMonitor | None = None, **moved: str
) -> Iterator[AlertMonitor]:
    """The monitor of one process; `moved`: endpoints that are to be others."""
    pipeline = connect(site.pipeline.settings, replace(site.pipeline.endpoints, **moved))
    log = FigureLog(pipeline.endpoints.dagster_url)
    backlog = BacklogMonitor(pipeline, log)
    began = time.time()
    monitor = AlertMonitor(
        pipeline,
        site.dagster,
        backlog,
        log,
        services or Services(),
        look_seconds=0.2,
        clock=lambda: began + SPEED * (time.time() - began),
    )
    threads = (backlog, monitor)
    for thread in threads:
        thread.start()
    try:
        yield monitor
    finally:
        for thread in threads:
            thread.stop(10)
        log.close()


def _fail(site: Site, *ids: str) -> None:
    for row_id in ids:
        site.add(row_id, f"http://127.0.0.1/{row_id}.jpg?token=query-secret")
    site.once()


def _told(hook: Hook, text: str) -> list[str]:
    return [one["message"] for one in hook.received if text in one["message"]]


def test_dead_letters_are_told_once_together_and_their_end(
    alerted: Site, hook: Hook, mailbox: Mailbox, photo: Callable[[str], str]
) -> None:
    _fail(alerted, *(f"bad{n}" for n in range(8)))
    with _monitor(alerted), _monitor(alerted):
        eventually(lambda: _told(hook, "8 dead letters"), 20, "the message")
        (message,) = _told(hook, "8 dead letters")
        assert message.count("UnsafeAddress") == 5
        assert "and 3 more" in message
        assert (
            "https://dagster.example.org/assets/preview?view=partitions&partition=bad0" in message
        )
        assert "query-secret" not in message
        eventually(lambda: mailbox.received, 10, "the mail")
        mail = mailbox.received[0]
        assert "dead letters" in str(mail["Subject"])
        assert "partition=bad0" in mail.get_content()
    # Started anew, nothing of it is news.
    with _monitor(alerted) as monitor:
        eventually(lambda: monitor.open == 1, 20, "the row")
        time.sleep(1)
    alerted.sql("UPDATE generations SET asset_url = :url", url=photo("mended"))
    alerted.once()
    with _monitor(alerted) as monitor:
        eventually(lambda: _told(hook, "OVER: 8 dead letters"), 20, "the end")
        assert (monitor.failing_targets, monitor.status()) == (0, "ok")
    assert len(_told(hook, "BEGAN")) == len(_told(hook, "OVER")) == 1
    assert "hook-secret" not in hook.text


def test_another_process_takes_over(alerted: Site, hook: Hook) -> None:
    services = Services()
    services.workers["masters"] = 0
    session = LockSession(alerted.dagster_url)
    assert session.try_all([alerts_lock()])
    with _monitor(alerted, services) as monitor:
        time.sleep(3)  # of which the problem needs two
        assert (hook.received, monitor.open) == ([], 0)
        session.close()
        eventually(lambda: _told(hook, "no worker of the queue masters"), 20, "the alert")


def test_an_outage_of_the_database_is_told_by_all_and_its_end_by_one(
    alerted: Site, hook: Hook
) -> None:
    services = Services()
    with (
        _databases_behind_gate(alerted) as (gate, moved),
        _monitor(alerted, services, **moved),
        _monitor(alerted, services, **moved),
    ):
        time.sleep(1)  # until it is known which one leads
        gate.refuse()
        services.problems["database"] = "cannot be read"
        eventually(lambda: len(_told(hook, "BEGAN: the database")) == 2, 30, "the alerts")
        gate.serve()
        services.problems["database"] = None
        eventually(lambda: _told(hook, "OVER: the database"), 30, "the end")
        time.sleep(2)
        assert len(_told(hook, "OVER: the database")) == 1
        assert len(_told(hook, "BEGAN: the database")) == 2


@pytest.mark.as_root
def test_a_store_whose_mount_hangs_or_fails_is_told(alerted: Site, hook: Hook) -> None:
    """An alert loop that hangs with the mount that it should tell of."""
    services = ServiceMonitor(alerted.pipeline, alerted.dagster)
    disks = DiskMonitor(alerted.pipeline.settings)
    with HangingMount(alerted.store) as mount:
        with _monitor(alerted, services):
            late = "does not answer within 3 s"
            eventually(lambda: _told(hook, f"BEGAN: the store {late}"), 40, "the alert")
            assert _told(hook, f"BEGAN: the disk of {alerted.store} {late}")
        mount.end()
        gone = "cannot be read: Transport endpoint is not connected"
        assert asyncio.run(services.look()).problems["store"] == gone
        assert asyncio.run(disks.look())[alerted.store] == gone
    assert isinstance(asyncio.run(disks.look())[alerted.store.parent / "home"], Space)


def test_the_app_says_whether_alerts_arrive(
    alerted: Site, hook: Hook, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_ALERT_URLS", hook.url)
    environment.setenv("LENS_ALERT_DISK_FREE_PERCENT", "99.9")
    hook.refuse = True
    app = create_app(Context(alerted.pipeline, RunQueue(alerted.pipeline, alerted.dagster, job)))
    with served(app) as address, httpx.Client(base_url=address) as web:
        answer = eventually(lambda: _alerts_of_health(web, "target 1 (json)"), 20, "the failure")
        assert "hook-secret" not in answer
        assert "lens_alert_targets_failing 1.0" in web.get("/metrics").text
        hook.refuse = False
        eventually(lambda: _told(hook, "is nearly full"), 30, "the alert")
        eventually(lambda: "lens_alerts_open 1.0" in web.get("/metrics").text, 10)
        assert _alerts_of_health(web, "ok")
        assert "lens_alert_targets_failing 0.0" in web.get("/metrics").text


def test_a_test_message_says_what_failed(
    alerted: Site, hook: Hook, mailbox: Mailbox, environment: pytest.MonkeyPatch
) -> None:
    done = alerted.lens("alert-test")
    assert (done.code, done.out.count("ok ")) == (0, 2)
    assert len(hook.received) == len(mailbox.received) == 1
    hook.refuse = True
    done = alerted.lens("alert-test")
    assert done.code == 1
    assert "FAIL target 1 (json): " in done.out
    assert "ok   target 2 (mailto)" in done.out
    assert "secret" not in done.out + done.err
    environment.setenv("LENS_ALERT_URLS", "tgram://my-secret-token")
    done = alerted.lens("alert-test")
    assert done.code == 2
    assert done.err.startswith("lens: LENS_ALERT_URLS has an address at place 1 (tgram://…)")
    assert "my-secret-token" not in done.out + done.err


def _alerts_of_health(web: httpx.Client, text: str) -> str | None:
    answer = web.get("/api/health").json()["alerts"]
    return answer if text in answer else None


@contextmanager
def _databases_behind_gate(site: Site) -> Iterator[tuple[TcpProxy, dict[str, str]]]:
    """The gate, and the endpoints that lead through it."""
    urls = {"database_url": site.database_url, "dagster_url": site.dagster_url}
    url = sa.make_url(site.database_url)
    with TcpProxy(str(url.host), url.port or 5432) as gate:
        moved = {
            name: sa.make_url(old).set(port=gate.port).render_as_string(hide_password=False)
            for name, old in urls.items()
        }
        yield gate, moved
