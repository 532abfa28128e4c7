"""How many queries a request costs."""

import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event


def queries(ask: Callable[[], object]) -> int:
    counted: list[str] = []

    def count(*arguments: Any) -> None:
        # Not those of the threads that follow the event log.
        if threading.current_thread().name.startswith("AnyIO"):
            counted.append(arguments[2])

    event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        ask()
    finally:
        event.remove(sa.Engine, "before_cursor_execute", count)
    return len(counted)
