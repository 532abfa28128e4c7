"""The servers of one home shared by several commands, each a process of its own."""

import os
import signal
from pathlib import Path

import psycopg2
import pytest

from lens_pipeline.core.endpoints import Services, services_file
from lens_pipeline.supervisor.orphans import processes_of
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.supervisor.commands import await_line, finish, spawn
from lens_pipeline_tests.support.homes import settings_for, supervisord_of
from lens_pipeline_tests.support.site import eventually

# Real servers start and stop in most of these.
pytestmark = pytest.mark.slow


def test_explicit_urls_start_nothing(home: Path) -> None:
    """A command in a container that begins with initdb."""
    settings = settings_for(home, database_url="postgresql://h/a", broker_url="redis://h")
    with running(settings, broker=True, command="once") as endpoints:
        assert endpoints.dagster_url == "postgresql://h/dagster"
    with running(settings_for(home, database_url="postgresql://h/a"), broker=False, command="x"):
        pass
    assert not home.exists()


def test_a_command_starts_what_it_needs_and_stops_it(home: Path) -> None:
    """A `lens status` that leaves a database running."""
    with running(settings_for(home), broker=True, command="once") as endpoints:
        assert {p.name() for p in processes_of(home)} >= {"postgres", "valkey-server"}
        psycopg2.connect(endpoints.dagster_url).close()
        assert services_file(home).stat().st_mode & 0o777 == 0o600
        services = Services.read(home)
        assert services
        assert (services.pid, services.command) == (os.getpid(), "once")
    assert processes_of(home) == []
    assert not services_file(home).exists()


def test_an_error_in_the_command_stops_its_servers_too(made: Path) -> None:
    """A failed `lens once` that leaves a database running."""
    with pytest.raises(ZeroDivisionError), running(settings_for(made), broker=True, command="x"):
        raise ZeroDivisionError
    assert processes_of(made) == []


def test_a_second_command_joins_and_the_first_waits_for_it(made: Path) -> None:
    """A long `lens backfill` that loses its database when a `lens status` ends."""
    first = spawn("short", made, "first")
    url = await_line(first, "postgresql://")
    second = spawn("short", made, "second")
    assert await_line(second, "postgresql://") == url
    finish(first)
    assert first.stderr
    assert "waiting for other `lens` commands" in first.stderr.readline()
    psycopg2.connect(url.strip()).close()
    # `communicate` also lets the second one finish.
    assert second.communicate(timeout=20)[0] == "done\n"
    assert first.communicate(timeout=20)[0] == "done\n"
    assert (first.returncode, second.returncode) == (0, 0)


def test_commands_that_start_together_share_one_server(made: Path) -> None:
    """Two servers on one data directory."""
    commands = [spawn("short", made, f"c{number}") for number in range(3)]
    assert len({await_line(command, "postgresql://") for command in commands}) == 1
    for command in commands:
        finish(command)
    assert [command.communicate(timeout=40)[0] for command in commands] == ["done\n"] * 3


def test_a_killed_owner_does_not_block(made: Path) -> None:
    """A machine that needs a person after `kill -9` or a power cut."""
    owner = spawn("short", made, "owner")
    url = await_line(owner, "postgresql://")
    # Not even its supervisor gets to stop anything.
    supervisord = supervisord_of(made)
    supervisord.suspend()
    owner.kill()
    owner.communicate()
    supervisord.kill()
    eventually(lambda: not supervisord.is_running() or supervisord.status() == "zombie")
    assert {p.name() for p in processes_of(made)} >= {"valkey-server"}
    assert Services.read(made) is None
    with running(settings_for(made), broker=True, command="next") as endpoints:
        assert endpoints.database_url == url.strip()
        psycopg2.connect(endpoints.database_url).close()


def test_a_terminated_command_leaves_nothing(made: Path) -> None:
    """A `timeout 60 lens once` in cron that leaves a database running."""
    command = spawn("short", made, "once")
    await_line(command, "postgresql://")
    command.send_signal(signal.SIGTERM)
    command.communicate(timeout=10)
    eventually(lambda: processes_of(made) == [])
