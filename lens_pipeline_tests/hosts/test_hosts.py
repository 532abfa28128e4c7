"""Workers on hosts that are cut off, die and come back, while services restart."""

import signal
from collections import Counter

import pytest
import sqlalchemy as sa

from lens_pipeline.core.locks import queue_id
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.derivatives.release import Release
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.reader import EventLog
from lens_pipeline_tests.hosts.machines import Machines
from lens_pipeline_tests.hosts.namespaces import Host
from lens_pipeline_tests.media.samples import decoded
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import eventually

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.as_root, pytest.mark.timeout(600)]

# The server's notice of a lost host, the daemon's look and patience, and a slow machine.
_NOTICE_SECONDS, _FAILED_SECONDS = 45, 120
_FOR_ALL_SECONDS = 180


def test_work_survives_hosts_and_services(machines: Machines) -> None:
    """Lost or doubled work, and slots or processes for nobody, after an ordinary bad day."""
    one, two = machines.workers
    machines.pipeline.store.write("s.jpg", sources.large_jpeg(), content_type="image/jpeg")
    machines.start_worker(one)
    machines.start_worker(two)
    _eventually_slots(machines, 4)

    _add(machines, "cut", 24)
    _eventually_works(machines, one)
    one.cut()
    eventually(lambda: not _holds_something(machines, one), _NOTICE_SECONDS, "the server's notice")
    _eventually_slots(machines, 2)
    eventually(lambda: _ready(machines) == 24, _FOR_ALL_SECONDS, "the other's work", every=2)
    one.heal()
    _eventually_slots(machines, 4)

    _add(machines, "dead", 16)
    _eventually_works(machines, two)
    two.cut()
    two.kill()
    machines.forget(two.name)
    two.heal()
    machines.start_worker(two)

    assert machines.stop("broker") == 0
    _add(machines, "broker", 8)
    machines.start_broker()
    _eventually_slots(machines, 4)

    _add(machines, "postgres", 8)
    _eventually_works(machines, one, two)
    machines.stop("postgres", signal.SIGINT)
    machines.start_postgres()

    eventually(lambda: _ready(machines) == 56, _FOR_ALL_SECONDS, "every preview", every=2)
    eventually(lambda: not _unfinished(machines), _FAILED_SECONDS, "the end of every run")
    _eventually_slots(machines, 4)
    _assert_made_once(machines)
    for host in (one, two):
        machines.stop(host.name)
        assert host.processes() == []
        scratch = machines.home / host.name / "scratch"
        assert list(scratch.iterdir()) == []
    _eventually_slots(machines, 0)


def _add(machines: Machines, name: str, count: int) -> None:
    machines.site.add_many([f"{name}-{number:02}" for number in range(count)], lambda _: "s.jpg")


def _ready(machines: Machines) -> int:
    return Counter(_states(machines).values())["ready"]


def _states(machines: Machines) -> dict[str, str]:
    pipeline = machines.pipeline
    rows = [row for page in pipeline.catalog.all_finished(PREVIEW.kind) for row in usable(page)]
    return {s.id: s.state.value for s in assess(pipeline, PREVIEW, rows)}


def _eventually_slots(machines: Machines, slots: int) -> None:
    queue = queue_id("previews", Release.of(machines.pipeline.settings).id)
    eventually(lambda: machines.pipeline.runs.slots().get(queue, 0) == slots, 90, f"{slots} slots")


def _eventually_works(machines: Machines, *hosts: Host) -> None:
    """Wait until each of `hosts` is in the middle of a run: it holds that, and its files."""
    for host in hosts:
        eventually(lambda host=host: _locks(machines, host) > 4, 60, f"work at {host.name}")


def _query(machines: Machines, query: str, **values: object) -> list[sa.Row]:
    engine = sa.create_engine(machines.site.dagster_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.execute(sa.text(query), values))


def _holds_something(machines: Machines, host: Host) -> bool:
    """Whether a session of that host has a lock or a transaction."""
    query = (
        "SELECT FROM pg_stat_activity a WHERE client_addr = CAST(:address AS inet) AND"
        " (xact_start IS NOT NULL OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid))"
    )
    return bool(_query(machines, query, address=host.address))


def _locks(machines: Machines, host: Host) -> int:
    """Of runs and partitions, held from that host."""
    query = (
        "SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
        " AND a.client_addr = CAST(:address AS inet)"
    )
    return len(_query(machines, query, address=host.address))


def _failed_runs(machines: Machines) -> list[str]:
    query = "SELECT run_id FROM runs WHERE status = 'FAILURE'"
    return [row.run_id for row in _query(machines, query)]


def _unfinished(machines: Machines) -> int:
    query = "SELECT FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
    return len(_query(machines, query))


def _assert_made_once(machines: Machines) -> None:
    """Each preview is whole and the only object, and made once if no run of it was broken off."""
    store, log = machines.pipeline.store, EventLog(machines.site.dagster_url)
    keys = list(_states(machines))
    events = machines.site.materializations("preview")
    made = Counter(
        event.asset_materialization.partition for event in events if event.asset_materialization
    )
    broken = set(_failed_runs(machines))
    for key, history in log.histories("preview", keys).items():
        crashes = sum(plan.run_id in broken for plan in history.planned)
        assert 1 <= made[key] <= 1 + crashes, key
    objects = {entry.key for entry in store.list("")}
    assert objects == {"s.jpg", *(f"u1/previews/{key}_preview.webp" for key in keys)}
    for key in objects - {"s.jpg"}:
        answer = machines.store.client().get_object(Bucket=machines.store.bucket, Key=key)
        decoded(answer["Body"].read())
