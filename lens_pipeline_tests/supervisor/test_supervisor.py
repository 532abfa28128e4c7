"""Supervision of dummy programs by a real supervisord."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import socket_path
from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor import supervisor as module
from lens_pipeline.supervisor.program import Program
from lens_pipeline.supervisor.supervisor import Supervisor
from lens_pipeline_tests.support.homes import supervisord_of
from lens_pipeline_tests.support.site import eventually

# Real servers start and stop in most of these.
pytestmark = pytest.mark.slow

SLEEP = ("sleep", "99")
# Leaves a mark at the start and on SIGTERM, in the order in which that happens.
RECORDER = """
import os, signal, sys, time
def note(what):
    with open(sys.argv[1], "a") as file: file.write(f"{what} {sys.argv[2]}\\n")
def stop(*_):
    time.sleep(float(sys.argv[3])); note("stop"); sys.exit()
signal.signal(signal.SIGTERM, stop)
note("start")
time.sleep(99)
"""
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(99)
"""


def _python(source: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", source, *map(str, arguments))


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _recorder(
    events: Path, name: str, *, priority: int = 10, needs: tuple[str, ...] = (), slow: float = 0
) -> Program:
    return Program(
        name,
        _python(RECORDER, events, name, slow),
        priority=priority,
        needs=needs,
        ready=lambda: events.exists() and f"start {name}" in events.read_text().splitlines(),
    )


@pytest.fixture(autouse=True)
def made(home: Path) -> None:
    home.mkdir()


def test_a_killed_program_is_started_again(home: Path) -> None:
    """A worker that was killed for its memory and is not started again."""
    with Supervisor(home, [Program("a", SLEEP)]) as supervisor:
        supervisor.start()
        before = supervisor.pids()["a"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: supervisor.pids()["a"] not in (0, before))
        assert supervisor.statuses() == {"a": "RUNNING"}


def test_programs_stop_from_the_highest_priority_down(home: Path, tmp_path: Path) -> None:
    """A daemon that launches runs while the workers are already gone."""
    events = tmp_path / "events"
    programs = [
        _recorder(events, "server", priority=10),
        _recorder(events, "worker", priority=20, slow=0.3),
        _recorder(events, "daemon", priority=30),
    ]
    with Supervisor(home, programs) as supervisor:
        supervisor.start()
    assert events.read_text().splitlines()[3:] == ["stop daemon", "stop worker", "stop server"]


def test_a_program_starts_when_those_it_needs_are_ready(home: Path, tmp_path: Path) -> None:
    """A daemon without its code server, or four slow imports one after the other."""
    events = tmp_path / "events"
    programs = [
        _recorder(events, "late", needs=("early", "other")),
        _recorder(events, "early"),
        _recorder(events, "other"),
    ]
    with Supervisor(home, programs) as supervisor:
        supervisor.start()
        assert events.read_text().splitlines()[-1] == "start late"


# Works for longer than its time limit before it is ready, as an import does on a busy machine.
SLOW = """
import pathlib, sys, time
while time.process_time() < 1.5: pass
pathlib.Path(sys.argv[1]).touch()
time.sleep(99)
"""


def test_a_start_may_take_as_long_as_it_makes_progress(home: Path, tmp_path: Path) -> None:
    """A `lens up` that gives up on a machine under load."""
    up = tmp_path / "up"
    slow = Program("slow", _python(SLOW, up), ready=up.exists, ready_timeout=0.5)
    with Supervisor(home, [slow]) as supervisor:
        assert supervisor.start() == []
        assert supervisor.statuses() == {"slow": "RUNNING"}


def test_a_page_that_does_not_start_stops_nothing(home: Path) -> None:
    """A pipeline that does not run because its Dagster UI hangs."""
    hanging = Program("ui", SLEEP, ready=lambda: False, ready_timeout=0.2, is_vital=False)
    with Supervisor(home, [hanging, Program("worker", SLEEP)]) as supervisor:
        (problem,) = supervisor.start()
        assert "ui was not ready" in problem and str(supervisor.log("ui")) in problem
        assert supervisor.statuses() == {"ui": "STARTING", "worker": "RUNNING"}


def test_a_program_gets_its_grace_and_no_more(home: Path, tmp_path: Path) -> None:
    """A hung worker that makes Ctrl-C useless."""
    up = tmp_path / "up"
    stubborn = Program("a", _python(STUBBORN, up), stop_seconds=1, ready=up.exists)
    with Supervisor(home, [stubborn]) as supervisor:
        supervisor.start()
        begun = time.monotonic()
    assert 1 <= time.monotonic() - begun < 4


def test_in_a_hurry_nobody_gets_grace(home: Path, tmp_path: Path) -> None:
    """The second Ctrl-C that is ignored."""
    up = tmp_path / "up"
    stubborn = Program("a", _python(STUBBORN, up), stop_seconds=60, ready=up.exists)
    with Supervisor(home, [stubborn], hurry=lambda: True) as supervisor:
        supervisor.start()
        begun = time.monotonic()
    assert time.monotonic() - begun < 3


def test_a_program_that_never_gets_ready_is_named_with_its_log(home: Path) -> None:
    """An error that says `timeout` and nothing else."""
    program = Program(
        "quiet", ("sh", "-c", "echo the reason; sleep 99"), ready=lambda: False, ready_timeout=0.5
    )
    with Supervisor(home, [program]) as supervisor, pytest.raises(StackError) as raised:
        supervisor.start()
    lines = str(raised.value).splitlines()
    assert re.fullmatch(r"quiet was not ready after \d\S* s, and makes no progress", lines[0])
    assert str(home / "logs" / "quiet.log") in lines[1]
    assert lines[2] == "the reason"


def test_a_program_that_cannot_start_fails_before_its_timeout(home: Path) -> None:
    """A missing module that takes two minutes to be reported."""
    program = Program(
        "broken", _python("raise SystemExit('no module x')"), ready=lambda: False, ready_timeout=60
    )
    with (
        Supervisor(home, [program]) as supervisor,
        pytest.raises(StackError, match=r"broken ends before it is ready\n.*\nno module x"),
    ):
        supervisor.start()


def test_a_program_that_ends_after_a_while_fails_before_its_timeout(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import that fails after seconds, again and again, each of which counts as progress."""
    monkeypatch.setattr(
        module, "_PROGRAM", module._PROGRAM.replace("startsecs = 5", "startsecs = 1")
    )
    program = Program("broken", ("sleep", "1.2"), ready=lambda: False, ready_timeout=15)
    with (
        Supervisor(home, [program]) as supervisor,
        pytest.raises(StackError, match="broken ends before it is ready"),
    ):
        supervisor.start()


def test_any_text_reaches_the_program(tmp_path: Path) -> None:
    """A password with % that supervisord expands, or a home whose name ends its command."""
    home = tmp_path / "a %(x)s 'b' ;c #d"
    home.mkdir()
    value = "100%\n%(here)s \"'; # \\ $HOME é"
    source = "import os, sys; print(repr((os.environ['X'], sys.argv[1])), flush=True)"
    program = Program("a", (*_python(source), value), environment={"X": value})
    with Supervisor(home, [program]) as supervisor:
        supervisor.start()
        log = supervisor.log("a")
        eventually(lambda: log.exists() and log.read_text().endswith("\n"))
    assert log.read_text().splitlines()[0] == repr((value, value))


def test_environments_lie_in_no_file(home: Path) -> None:
    """A database password for everybody on the machine."""
    with Supervisor(home, [Program("a", SLEEP, environment={"X": "secret"})]) as supervisor:
        supervisor.start()
        assert not any(b"secret" in _content(file) for file in home.rglob("*"))
        for path in (home / "run", home / "logs"):
            assert path.stat().st_mode & 0o77 == 0


def test_a_long_home_path_works(tmp_path: Path) -> None:
    """A socket path above the kernel's 108 bytes."""
    home = tmp_path / ("x" * 100) / ("y" * 100)
    home.mkdir(parents=True)
    with Supervisor(home, [Program("a", SLEEP)]) as supervisor:
        supervisor.start()
        assert supervisor.statuses() == {"a": "RUNNING"}
    assert orphans.processes_of(home) == []


@pytest.mark.as_root
def test_another_users_socket_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory planted in /tmp that lets its maker control our processes."""
    home = tmp_path / ("x" * 200)
    home.mkdir()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        planted = socket_path(home, "supervisor.sock").parent
        planted.mkdir()
        os.chown(planted, 12345, 12345)
        with pytest.raises(StackError, match="belongs to somebody else"), Supervisor(home, []):
            pass


# Tells what a program of a fork must not have from its parents, and ends as asked.
MODULE = """
import atexit, os, pathlib, signal, sys, threading, time
atexit.register(print, "at exit")
handlers = [number for number in signal.valid_signals() if callable(signal.getsignal(number))]
print(__name__, sys.argv[1:], os.environ["X"], os.getcwd(), [*map(int, handlers)])
pathlib.Path(sys.argv[1]).touch()
if sys.argv[2] == "fail":
    raise ValueError("on purpose")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
sys.exit("told")
"""


@pytest.mark.parametrize("end", ["fail", "exit"])
def test_a_module_runs_in_a_fork_as_if_it_was_a_process_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Handlers, files or clean-ups of the parent's that act in each of its programs."""
    (tmp_path / "lens_fork_sample.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    began = tmp_path / "began"
    program = Program(
        "a",
        ("lens_fork_sample", str(began), end),
        environment={"X": "mine"},
        cwd=tmp_path,
        is_module=True,
        ready=began.exists,
    )
    with Supervisor(home, [program]) as supervisor:
        supervisor.start()
        log = supervisor.log("a")
        eventually(lambda: "at exit" in log.read_text())
    first, *rest = log.read_text().partition("at exit")[0].splitlines()
    sigint = [int(signal.SIGINT)]
    assert first == f"__main__ {[str(began), end]} mine {tmp_path} {sigint}"
    assert rest[-1] == ("ValueError: on purpose" if end == "fail" else "thread")
    assert ("told" in rest) == (end == "exit")


def _child_that_supervises(home: Path) -> subprocess.Popen[bytes]:
    source = (
        "import sys, time; from pathlib import Path\n"
        "from lens_pipeline.supervisor.program import Program\n"
        "from lens_pipeline.supervisor.supervisor import Supervisor\n"
        "sleep = Program('a', ('sleep', '99'))\n"
        "fork = Program('b', ('http.server', '--bind', '127.0.0.1', '0'), is_module=True)\n"
        "with Supervisor(Path(sys.argv[1]), [sleep, fork]) as s:\n"
        "    s.start(); print(flush=True); time.sleep(99)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", source, str(home)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout
    child.stdout.readline()
    return child


def _names(home: Path) -> set[str]:
    return {process.name() for process in orphans.processes_of(home)}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("signal.signal(signal.SIGCHLD, signal.SIG_IGN); s.stop()", id="no SIGCHLD"),
        pytest.param("pass", id="no stop"),
    ],
)
def test_a_parent_ends_at_once(home: Path, end: str) -> None:
    """A command that waits for ever for a supervisord that waits for it."""
    source = (
        "import signal, sys; from pathlib import Path\n"
        "from lens_pipeline.supervisor.program import Program\n"
        "from lens_pipeline.supervisor.supervisor import Supervisor\n"
        "s = Supervisor(Path(sys.argv[1]), [Program('a', ('sleep', '99'))])\n"
        f"s.__enter__(); s.start(); {end}; sys.exit(3)\n"
    )
    command = [sys.executable, "-c", source, str(home)]
    assert subprocess.run(command, check=False, timeout=15).returncode == 3
    eventually(lambda: orphans.processes_of(home) == [])


def test_everything_stops_when_the_parent_is_killed(home: Path) -> None:
    """Processes that outlive a `kill -9` of `lens up` unnoticed."""
    child = _child_that_supervises(home)
    eventually(lambda: {"sleep", "lens: b"} <= _names(home))
    child.kill()
    child.wait()
    eventually(lambda: orphans.processes_of(home) == [])


def test_orphans_of_a_killed_supervisor_are_swept(home: Path) -> None:
    """A second worker beside one that is no longer supervised."""
    child = _child_that_supervises(home)
    eventually(lambda: {"sleep", "lens: b"} <= _names(home))
    supervisord = supervisord_of(home)
    supervisord.suspend()
    child.kill()
    child.wait()
    supervisord.kill()
    eventually(lambda: _names(home) == {"sleep", "lens: b"})
    told: list[str] = []
    orphans.sweep(home, told.append)
    assert orphans.processes_of(home) == []
    assert told == ["stopping what is left of an earlier start: 2 of its processes"]


def test_the_sweep_leaves_other_homes_alone(home: Path, tmp_path: Path) -> None:
    """A start that ends the processes of another home on the machine."""
    with Supervisor(home, [Program("a", SLEEP)]) as supervisor:
        supervisor.start()
        orphans.sweep(tmp_path, lambda _: None)
        assert supervisor.statuses() == {"a": "RUNNING"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_lost_supervisord_is_an_error_and_leaves_nothing(
    home: Path, number: signal.Signals
) -> None:
    """A `lens up` that shows old states for ever, or stays with no program."""
    with Supervisor(home, [Program("a", SLEEP)]) as supervisor:
        supervisor.start()
        supervisord = supervisord_of(home)
        supervisord.send_signal(number)
        supervisord.wait()
        with pytest.raises(StackError, match="supervisord does not answer"):
            supervisor.statuses()
    assert orphans.processes_of(home) == []
