"""supervisord as a fork of its parent; it stops, in order, when the parent dies.

It becomes the programs that are modules by another fork: all share what the parent has imported.
"""

import atexit
import contextlib
import ctypes
import gc
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import setproctitle
import supervisor.options
import supervisor.supervisord

from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor.json_logs import write_json
from lens_pipeline.supervisor.program import Program

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OPEN_FILES = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


class Supervisord:
    """A running supervisord, of which an interpreter that ends does not wait for the end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._has_ended = False

    def is_alive(self) -> bool:
        return not self._await_end(os.WNOHANG)

    def send(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self._pid, number)

    def join(self) -> None:
        self._await_end(0)

    def _await_end(self, options: int) -> bool:
        if not self._has_ended:
            try:
                self._has_ended = os.waitpid(self._pid, options)[0] != 0
            except ChildProcessError:  # whoever started us ignores SIGCHLD
                self._has_ended = True
        return self._has_ended


def start(home: Path, programs: Mapping[str, Program], *, json_logs: bool) -> Supervisord:
    """Run supervisord in `home`, by its `run/supervisord.conf`, which names these programs.

    The caller should have no thread yet.
    """
    # What is garbage now would close the files of others in the child.
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _run_to_end(lambda: _main(parent, home, programs, json_logs))
    return Supervisord(pid)


def end_with(parent: int, number: signal.Signals) -> None:
    """Let Linux send `number` to this child of `parent` when that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            sys.exit("the parent died before its child started")


def _main(parent: int, home: Path, programs: Mapping[str, Program], json_logs: bool) -> None:
    _forget_handlers()
    os.setsid()  # Ctrl-C is for the parent only
    os.chdir(home)
    _replace_files(home / "logs" / "supervisord-start.log")
    mark = orphans.mark_this(home)
    setproctitle.setproctitle("lens: supervisord")
    end_with(parent, signal.SIGTERM)
    if sys.platform == "linux":
        # Reaps orphaned grandchildren.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if json_logs:
        write_json()

    def become(_options: object, _file: str, argv: list[str], environment: dict[str, str]) -> None:
        _become(home, programs[argv[-1]], environment)

    def close(_options: object, descriptor: int) -> None:
        """Forks keep the mark, and `exec` closes it."""
        if descriptor != mark:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    options = supervisor.options.ServerOptions
    options.fork, options.execve, options.close_fd = _fork, become, close  # pyright: ignore[reportAttributeAccessIssue]
    ours = options()
    ours.realize(["--nodaemon", "--configuration", "run/supervisord.conf"], doc=__doc__)
    vars(ours).update(first=True, test=False)
    # Its `main` begins anew at SIGHUP, with no program started.
    supervisor.supervisord.go(ours)


def _replace_files(log: Path) -> None:
    """Close the parent's, among them its locks."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, descriptor in enumerate((null, output, output)):
        os.dup2(descriptor, number)
    # Not up to the limit, which may be a thousand millions.
    for descriptor in [int(entry.name) for entry in _OPEN_FILES.iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # that of the directory itself
                os.close(descriptor)
    # The parent's may be closed, or a test's.
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
        for number in (1, 2)
    )


def _fork(_options: object) -> int:
    pid = os.fork()
    if not pid:
        _forget_handlers()
    return pid


def _forget_handlers() -> None:
    """As an `exec` would."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _become(home: Path, program: Program, environment: Mapping[str, str]) -> None:
    """Raises OSError: there is no such program."""
    os.environ.update({**environment, **program.environment, orphans.MARK: str(home)})
    os.chdir(program.cwd)
    if not program.is_module:
        os.execvp(program.argv[0], program.argv)
    setproctitle.setproctitle(f"lens: {program.name}")
    sys.argv = list(program.argv)
    module = program.argv[0]
    _run_to_end(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True))


def _run_to_end(main: Callable[[], object]) -> NoReturn:
    """Call `main` and end the process as the interpreter does, which would go on in our callers."""
    status = 1
    try:
        status = _status_of(main)
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _status_of(main: Callable[[], object]) -> int:
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0
