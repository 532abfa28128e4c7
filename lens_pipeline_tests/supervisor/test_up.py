"""`lens up` with one dummy program and the real servers."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from lens_pipeline.core import ports
from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import prepare_home
from lens_pipeline.core.restarts import read_restarts
from lens_pipeline.engine.instance import find_config_dir
from lens_pipeline.engine.liveness import code_socket
from lens_pipeline.settings import SettingsError
from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor.up import call_in_fork, programs
from lens_pipeline_tests.supervisor.commands import SLEEPER, STUBBORN, await_line, spawn
from lens_pipeline_tests.support.homes import settings_for, supervisord_of

# Real servers start and stop in most of these.
pytestmark = pytest.mark.slow


def _stop(command: subprocess.Popen[str], home: Path, number: int = signal.SIGTERM) -> None:
    """Signal `lens up`; it must end in order and leave nothing behind."""
    command.send_signal(number)
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 0, errors
    assert orphans.processes_of(home) == []
    assert not (home / "services.json").exists()


def test_a_signal_in_a_finalizer_stops_everything(made: Path) -> None:
    """A `lens up` that cannot be stopped, because Python lost what its signal handler raised."""
    command = spawn("up", made, SLEEPER, "told")
    await_line(command, "'dummy': 'RUNNING'")
    _, errors = command.communicate(timeout=20)
    assert "Exception ignored" in errors
    assert command.returncode == 0, errors
    assert orphans.processes_of(made) == []


def test_a_second_interrupt_does_not_wait_for_grace(made: Path) -> None:
    """A second Ctrl-C that has to wait for the grace of the programs."""
    command = spawn("up", made, STUBBORN)
    await_line(command, "ready")
    command.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert command.poll() is None
    begun = time.monotonic()
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=20)
    assert time.monotonic() - begun < 5
    assert orphans.processes_of(made) == []


def test_a_second_up_is_refused_and_commands_join_the_first(made: Path) -> None:
    """Two supervisors in one home, or a command that starts a database of its own."""
    first = spawn("up", made)
    await_line(first, "'dummy': 'RUNNING'")
    second = spawn("up", made)
    _, errors = second.communicate(timeout=20)
    assert (second.returncode, errors) == (1, f"`lens up` already runs here (pid {first.pid})\n")
    short = spawn("short", made, "status")
    output, errors = short.communicate(timeout=20)
    assert (output.splitlines()[-1], errors) == ("done", "")
    _stop(first, made)


def test_up_waits_for_a_short_command(made: Path) -> None:
    """A `lens up` in a boot script that fails because of a `lens status`."""
    short = spawn("short", made, "status")
    await_line(short, "postgresql://")
    command = spawn("up", made)
    assert command.stderr
    assert f"waiting for `lens status` (pid {short.pid})" in command.stderr.readline()
    assert short.communicate()[0] == "done\n"
    await_line(command, "ready")
    _stop(command, made)


def test_a_killed_up_does_not_block_the_next(made: Path) -> None:
    """A machine that needs a person after `kill -9`."""
    first = spawn("up", made)
    await_line(first, "ready")
    first.kill()
    first.communicate()
    second = spawn("up", made)
    await_line(second, "ready")
    _stop(second, made)


def test_a_frozen_session_of_the_database_does_not_block_the_next(made: Path) -> None:
    """A database that cannot start because one process of the last one has its memory."""
    first = spawn("up", made)
    await_line(first, "ready")
    (server,) = [
        p for p in orphans.processes_of(made) if "--listen_addresses" in " ".join(p.cmdline())
    ]
    frozen = server.children()[0]
    frozen.suspend()
    server.kill()
    first.kill()
    first.communicate()
    second = spawn("up", made)
    await_line(second, "ready")
    _stop(second, made)


def test_a_lost_supervisor_ends_up_with_an_error(made: Path) -> None:
    """A `lens up` that runs on without anything under it."""
    command = spawn("up", made)
    await_line(command, "ready")
    supervisord_of(made).kill()
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 1
    assert "supervisord does not answer" in errors
    assert orphans.processes_of(made) == []


def test_what_fails_in_a_fork_is_raised_here() -> None:
    """A start with a wrong setting that goes on, or ends without its reason."""

    def refuse() -> None:
        raise SettingsError("it is wrong")

    call_in_fork(lambda: None)
    with pytest.raises(SettingsError, match="^it is wrong$"):
        call_in_fork(refuse)
    with pytest.raises(StackError):
        call_in_fork(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_restarted_program_is_reported(made: Path) -> None:
    """A worker that crashes all day without a line about it."""
    command = spawn("up", made)
    await_line(command, "ready")
    (dummy,) = [p for p in orphans.processes_of(made) if "time.sleep(99)" in " ".join(p.cmdline())]
    dummy.kill()
    assert command.stderr
    for line in command.stderr:
        if "dummy ended and is started again" in line:
            break
    restarts = read_restarts(made)
    assert {name: one.count for name, one in restarts.items() if one.count} == {"dummy": 1}
    assert not restarts["dummy"].is_loop(time.time())
    # As of a terminal that is closed.
    _stop(command, made, signal.SIGHUP)


def test_a_port_in_use_is_named_with_its_holder() -> None:
    """`Address already in use` in the log of a process that restarts for ever."""
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        me = psutil.Process().name()
        with pytest.raises(StackError) as raised:
            ports.require_free("LENS_DAGSTER_PORT", port, ports.LOOPBACK)
    assert str(raised.value) == (
        f"LENS_DAGSTER_PORT={port} is in use on 127.0.0.1 by {me} (pid {os.getpid()}):"
        " stop that or set LENS_DAGSTER_PORT"
    )


def test_an_unusable_home_is_one_line(tmp_path: Path) -> None:
    """A traceback from somewhere inside the first start."""
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"LENS_HOME=.* cannot be used \(Not a directory\)"):
        prepare_home(tmp_path / "file" / "home")


def test_a_full_disk_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that stops in the middle of its first start."""
    usage = type("Usage", (), {"free": 10 * 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StackError, match="has 10 MiB free and needs 256"):
        prepare_home(home)


def test_the_products_programs_fit_together(home: Path) -> None:
    """A code server that any user can reach, or a worker killed in its grace."""
    settings = settings_for(home, grace_seconds=40, preview_concurrency=3, dagster_port=3456)
    made = {program.name: program for program in programs(settings, find_config_dir())}
    code = made["code"]
    assert code.argv[-2:] == ("--socket", str(code_socket(home)))
    assert all(program.environment == code.environment for program in made.values())
    assert code.environment["LENS_HOME"] == str(home)
    assert code.environment["DAGSTER_HOME"] == str(home / "dagster")
    assert made["worker-previews"].stop_seconds == 55
    assert made["worker-previews"].argv[-2:] == ("--concurrency", "3")
    stop_order = sorted(made, key=lambda name: -made[name].priority)
    assert stop_order[:2] == ["daemon", "worker-previews"]
    assert all(program.is_module for program in made.values())
    assert [name for name, program in made.items() if not program.is_vital] == ["web"]
