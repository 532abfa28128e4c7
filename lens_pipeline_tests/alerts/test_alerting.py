"""Alerts as the app sends them, received by a mail server and a web hook."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from lens_pipeline.alerts.ledger import Rhythm
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web import alerting
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.alerts.inboxes import Hook, Mailbox
from lens_pipeline_tests.pipeline.site import Site, eventually
from lens_pipeline_tests.web.conftest import served
from lens_pipeline_tests.web.outages import Gate

pytestmark = pytest.mark.slow

# Of the broker, which the sites of these tests do not have, nothing is told within an hour.
QUICK = Rhythm(hold=3600.0, settle=1.0, more=2.0, apart=0.2, most_an_hour=100)


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
    environment.setattr(alerting, "RHYTHM", QUICK)
    return site


def _app(site: Site, **moved: str) -> FastAPI:
    """The app; `moved`: endpoints that are to be others."""
    pipeline = connect(site.pipeline.settings, replace(site.pipeline.endpoints, **moved))
    return create_app(Context(pipeline, RunQueue(pipeline, site.dagster)))


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
    with served(_app(alerted)), served(_app(alerted)):
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

        _fail(alerted, "bad9")
        eventually(lambda: _told(hook, "9 dead letters"), 20, "the message of one more")
        (message,) = _told(hook, "GREW")
        assert "bad9" in message
        assert "bad0" not in message
    # Started anew, nothing of it is news.
    with served(_app(alerted)) as url, httpx.Client(base_url=url) as web:
        eventually(lambda: "lens_alerts_open 1.0" in web.get("/metrics").text, 20, "the place")
        alerted.sql("UPDATE generations SET asset_url = :url", url=photo("mended"))
        alerted.once()
        eventually(lambda: _told(hook, "OVER: 9 dead letters"), 20, "the end")
        assert "lens_alert_targets_failing 0.0" in web.get("/metrics").text
    assert len(_told(hook, "BEGAN: 8 dead letters")) == 1
    assert len(_told(hook, "BEGAN: 9 dead letters")) == 0
    assert "hook-secret" not in hook.text


def test_what_goes_away_is_told_without_a_database(
    alerted: Site, hook: Hook, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(alerting, "RHYTHM", replace(QUICK, hold=0.0))
    url = sa.make_url(alerted.database_url)
    with Gate(str(url.host), url.port or 5432) as gate:
        moved = {
            name: sa.make_url(old).set(port=gate.port).render_as_string(hide_password=False)
            for name, old in (
                ("database_url", alerted.database_url),
                ("dagster_url", alerted.dagster_url),
            )
        }
        with served(_app(alerted, **moved)) as address, httpx.Client(base_url=address) as web:
            eventually(lambda: _told(hook, "broker"), 20, "the alert of the missing broker")
            gate.refuse()
            hook.refuse = True
            eventually(lambda: hook.calls > len(hook.received), 30, "a try")
            eventually(
                lambda: "target 1 (json)" in web.get("/api/health").json()["alerts"], 10, "health"
            )
            assert "hook-secret" not in web.get("/api/health").text
            hook.refuse = False
            eventually(lambda: _told(hook, "BEGAN: the database"), 30, "the alert")
            gate.serve()
            eventually(lambda: _told(hook, "OVER: the database"), 30, "its end")
            assert len(_told(hook, "BEGAN: the database")) == 1


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
