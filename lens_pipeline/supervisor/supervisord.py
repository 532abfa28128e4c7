"""supervisord as a fork of its parent; it stops, in order, when the parent dies.

It becomes the programs that are modules by another fork: all share what the parent has imported.
"""

import atexit
import ctypes
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.context import ForkProcess
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


def start(home: Path, programs: Mapping[str, Program], *, json_logs: bool) -> ForkProcess:
    """Run supervisord in `home`, by its `run/supervisord.conf`, which names these programs.

    The caller should have no thread yet.
    """
    # What is garbage now would close the files of others in the child.
    gc.collect()
    gc.freeze()
    arguments = (os.getpid(), home, programs, json_logs)
    process = multiprocessing.get_context("fork").Process(target=_main, args=arguments)
    process.start()
    return process


def _main(parent: int, home: Path, programs: Mapping[str, Program], json_logs: bool) -> None:
    _forget_handlers()
    os.setsid()  # Ctrl-C is for the parent only
    os.chdir(home)
    _replace_files(home / "logs" / "supervisord-start.log")
    orphans.mark_this(home)
    setproctitle.setproctitle("lens: supervisord")
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # Reaps orphaned grandchildren.
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != parent:
            sys.exit("the parent died before its supervisor started")
    if json_logs:
        write_json()

    def become(_options: object, _file: str, argv: list[str], environment: dict[str, str]) -> None:
        _become(home, programs[argv[-1]], environment)

    options = supervisor.options.ServerOptions
    options.fork, options.execve = _fork, become  # pyright: ignore[reportAttributeAccessIssue]
    supervisor.supervisord.main(["--nodaemon", "--configuration", "run/supervisord.conf"])


def _replace_files(log: Path) -> None:
    """Close the parent's, among them its locks."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, descriptor in enumerate((null, output, output)):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    # Tests have others.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


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


def _become(home: Path, program: Program, environment: Mapping[str, str]) -> NoReturn:
    os.environ.update({**environment, **program.environment, orphans.MARK: str(home)})
    os.chdir(program.cwd)
    if not program.is_module:
        os.execvp(program.argv[0], program.argv)
    orphans.mark_this(home)
    setproctitle.setproctitle(f"lens: {program.name}")
    status = 1
    try:
        sys.argv = list(program.argv)
        runpy.run_module(program.argv[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            status = end.code or 0
        else:
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    # The interpreter's own end would go on in supervisord's frames.
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
