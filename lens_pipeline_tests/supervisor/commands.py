"""`lens`-like commands as processes of their own: `python -m … {short,up} HOME …`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lens_pipeline.core.endpoints import Endpoints, StackError, resolve
from lens_pipeline.core.ports import free_port
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor import up as stack_up
from lens_pipeline.supervisor.program import Program
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.support.homes import settings_for

# Programs for `up`; they make the file they are given once they are ready.
SLEEPER = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(99)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"


def spawn(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lens_pipeline_tests.supervisor.commands", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def await_line(process: subprocess.Popen[str], text: str) -> str:
    """The next line of the command's output, which must contain `text`."""
    assert process.stdout
    line = process.stdout.readline()
    assert text in line, (line, process.stderr and process.stderr.read())
    return line


def finish(process: subprocess.Popen[str]) -> None:
    """Let a short command come to its end."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def _short(settings: Settings, name: str) -> None:
    with running(settings, broker=True, command=name) as endpoints:
        print(endpoints.database_url, flush=True)
        sys.stdin.readline()
    print("done", flush=True)


class _Told:
    """Is sent SIGTERM while it is finalized, where Python drops what the handler raises."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)


def _up(settings: Settings, source: str = SLEEPER, told: str = "") -> None:
    """`lens up` with one dummy program instead of the product's; `told`: see `_Told`."""
    made = settings.home / "made-by-dummy"
    made.unlink(missing_ok=True)
    argv = (sys.executable, "-c", source, str(made))
    dummy = Program("dummy", argv, priority=50, stop_seconds=30, ready=made.exists)

    def dummies(_: Settings, __: Path) -> list[Program]:
        return [dummy]

    def prepare(endpoints: Endpoints) -> None:
        assert resolve(settings) == endpoints

    def ready(stack: stack_up.Stack) -> None:
        print("ready", stack.statuses(), flush=True)
        if told:
            _Told()

    stack_up.programs = dummies
    # Dummies need none of it, and it takes seconds.
    stack_up.roles.import_shared = lambda: None
    stack_up.up(
        settings,
        prepare=prepare,
        on_ready=ready,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )


def main() -> None:
    # Instead of 10 s for a frozen one.
    orphans._PATIENCE_SECONDS = 3
    command, home, *arguments = sys.argv[1:]
    # The default ports may be in use where the tests run.
    settings = settings_for(Path(home), dagster_port=free_port(), api_port=free_port())
    try:
        {"short": _short, "up": _up}[command](settings, *arguments)
    except StackError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
