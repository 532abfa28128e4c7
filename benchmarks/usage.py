"""What a running stack uses: processor time by part, and what PostgreSQL has done."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import sqlalchemy as sa

from benchmarks.running_stack import RunningStack

# A part by what is in its title; the first that fits.
_PARTS = {
    "lens: daemon": "daemon",
    "lens: code": "code",
    "lens: web": "web",
    "lens: api": "api",
    "previews": "workers",
    "masters": "masters",
    "valkey-server": "broker",
    "postgres": "postgres",
}
PARTS = tuple(_PARTS.values())
# PostgreSQL's processes tell what they have done once they rest, at most once a second.
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since some moment, or between two."""

    seconds: float
    cpu: Mapping[str, float]
    """Processor seconds by part."""
    transactions: int
    wal_bytes: int

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.seconds - earlier.seconds,
            {part: used - earlier.cpu[part] for part, used in self.cpu.items()},
            self.transactions - earlier.transactions,
            self.wal_bytes - earlier.wal_bytes,
        )

    def without(self, rest: "Usage") -> "Usage":
        """Less what is used at rest in as much time."""
        share = self.seconds / rest.seconds
        return Usage(
            self.seconds,
            {part: used - share * rest.cpu[part] for part, used in self.cpu.items()},
            round(self.transactions - share * rest.transactions),
            round(self.wal_bytes - share * rest.wal_bytes),
        )


def usage(stack: RunningStack, workers: psutil.Process | None = None) -> Usage:
    """All that the stack has used up to now; `workers`: what it did not start itself."""
    time.sleep(_SETTLE_SECONDS)
    cpu = dict.fromkeys(PARTS, 0.0)
    for program in stack.programs():
        cpu[_part(program)] += cpu_seconds(program)
    if workers is not None:
        cpu["workers"] += cpu_seconds(workers)
    with stack.dagster.connect() as connection:
        counted = connection.execute(_COUNTED).one()
    return Usage(time.monotonic(), cpu, int(counted.transactions), int(counted.wal_bytes))


def _part(program: psutil.Process) -> str:
    line = " ".join(program.cmdline())
    return next(part for text, part in _PARTS.items() if text in line)


def cpu_seconds(root: psutil.Process) -> float:
    """Processor time of a process, all that it started, and all that has ended of those."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:  # its parent has its time now
            continue
    return total


_COUNTED = sa.text(
    "SELECT (SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database) AS transactions,"
    " (SELECT wal_bytes FROM pg_stat_wal) AS wal_bytes"
)
