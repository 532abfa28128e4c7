"""Whose turn it is, so that one user's many files do not hold up another's few."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from lens_pipeline.event_log.queue import Waiting

T = TypeVar("T")
O = TypeVar("O", bound=Hashable)  # noqa: E741 - an owner


def round_robin(
    items: Iterable[T], owner: Callable[[T], O], taken: Mapping[O, int] | None = None
) -> list[T]:
    """`items`, given in order of arrival, by turns; `taken`: turns that owners have had."""
    turns: defaultdict[O, int] = defaultdict(int, taken or {})
    placed: list[tuple[int, T]] = []
    for item in items:
        who = owner(item)
        placed.append((turns[who], item))
        turns[who] += 1
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def next_runs(
    waiting: Iterable[Waiting], slots: Mapping[str, int], under_way: Mapping[tuple[str, str], int]
) -> list[str]:
    """Ids of the runs to begin now, by priority and then by turns; `waiting` by arrival.

    `slots`: what the workers of each queue take at once; `under_way`: runs by queue and owner.
    """
    chosen: list[str] = []
    by_queue: defaultdict[str, list[Waiting]] = defaultdict(list)
    for run in waiting:
        by_queue[run.queue].append(run)
    for queue, runs in by_queue.items():
        taken = {owner: count for (where, owner), count in under_way.items() if where == queue}
        free = slots.get(queue, 0) - sum(taken.values())
        if free <= 0:
            continue
        for priority in sorted({run.priority for run in runs}, reverse=True):
            equal = (run for run in runs if run.priority == priority)
            first = round_robin(equal, lambda run: run.owner, taken)[:free]
            chosen += [run.run_id for run in first]
            free -= len(first)
            if not free:
                break
    return chosen
