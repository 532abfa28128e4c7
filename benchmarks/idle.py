"""What a stack at rest takes for nothing: processor time and transactions.

It has made photos before, so that every sensor has rows in its overlap and every process its
connections. Nothing is compared with it: the version before is measured by the same program.
"""

import time

from benchmarks.photos import jpegs
from benchmarks.running_stack import running_stack
from benchmarks.usage import usage

_IDLE_SECONDS, _QUICK_IDLE_SECONDS = 60.0, 10.0
# The daemon's loops and the last sensors' ticks come to rest.
_REST_SECONDS = 10.0
_EDGE = 512


def run(quick: bool = False) -> dict[str, float]:
    with running_stack() as stack:
        stack.warm_up(stack.store_files(jpegs(2, _EDGE, _EDGE)))
        time.sleep(_REST_SECONDS)
        before = usage(stack)
        time.sleep(_QUICK_IDLE_SECONDS if quick else _IDLE_SECONDS)
        idle = usage(stack).since(before)
    return {
        "idle_cores": sum(idle.cpu.values()) / idle.seconds,
        "idle_transactions_a_second": idle.transactions / idle.seconds,
    }
