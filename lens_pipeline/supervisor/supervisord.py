"""supervisord that stops, in order, when its parent dies.

Usage: supervisord.py PARENT_PID CONFIG json|text (the format of all logs).
"""

import ctypes
import os
import runpy
import signal
import sys

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _forget_handlers() -> None:
    """New children would ignore signals in inherited handlers, and survive a stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def main() -> None:
    parent, config, log_format = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # Reaps orphaned grandchildren.
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != parent:
            sys.exit("the parent died before its supervisor started")
    os.register_at_fork(after_in_child=_forget_handlers)
    if log_format == "json":
        from lens_pipeline.supervisor.json_logs import write_json

        write_json()
    sys.argv = ["supervisord", "--nodaemon", "--configuration", config]
    runpy.run_module("supervisor.supervisord", run_name="__main__")


if __name__ == "__main__":
    main()
