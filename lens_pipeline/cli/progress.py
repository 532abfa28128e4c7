"""Progress: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY = 5.0  # seconds


class Meter:
    def __init__(self, label: str, total: int | None, bar: Progress | None) -> None:
        self._label = label
        self._total = total
        self._bar = bar
        self._task = bar.add_task(label, total=total) if bar else None
        self._said = time.monotonic()

    def show(self, done: int, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=f"{self._label} {note}")
        elif time.monotonic() - self._said >= _LINE_EVERY or done == self._total:
            self._said = time.monotonic()
            total = "" if self._total is None else f" of {self._total}"
            print(f"{self._label}: {done}{total} {note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def meter(label: str, total: int | None) -> Iterator[Meter]:
    if not sys.stderr.isatty():
        yield Meter(label, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        yield Meter(label, total, bar)
