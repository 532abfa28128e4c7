"""One program of the supervisor."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Program:
    """A process to be kept running.

    `argv` begins with the name of a module if `is_module`: it runs in a fork, without an import of
    what the caller has imported. `needs`: programs that must be ready before. `priority`: high ones
    stop first, equal ones together. `environment` adds to the caller's. `ready` answers within
    about a second. `ready_timeout` is in seconds without progress. The others can do without one
    that is not `is_vital`.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = field(default_factory=Path.cwd)
    is_module: bool = False
    priority: int = 100
    needs: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    ready_timeout: float = 60
    is_vital: bool = True
    # Goes to the program alone; after `stop_seconds` its whole group is killed.
    stop_signal: Literal["TERM", "INT"] = "TERM"
    stop_seconds: float = 10

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise ValueError(f"a program cannot be named {self.name!r}")

    @property
    def group(self) -> str:
        return f"stop-{self.priority}"
