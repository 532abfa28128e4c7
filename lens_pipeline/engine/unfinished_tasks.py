"""Tasks whose webhook has not come: the provider is asked, within its limits."""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

import dagster as dg

from lens_pipeline import providers
from lens_pipeline.catalog.provider_tasks import TaskRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.engine.finished_tasks import finish_task
from lens_pipeline.providers.models import (
    Provider,
    ProviderError,
    ProviderUnavailable,
    Task,
    UnknownTask,
)

logger = logging.getLogger(__name__)

# A webhook has come by then, or will not.
UNCHANGED = dt.timedelta(seconds=60)
# kie.ai takes twenty requests in ten seconds; webhooks and people ask as well.
ASKED_AT_ONCE, TICK_SECONDS = 15, 10
_SIDE_BY_SIDE = 5
_MOST = 5000
# Of a tick, during which other sensors wait.
_SECONDS = 5.0
# Seconds until a task is asked for again, by the hours since its row changed.
_PAUSES = ((1.0, 60.0), (24.0, 600.0), (float("inf"), 3600.0))
# A provider may know a new task only after a while.
_UNKNOWN_FOR = dt.timedelta(hours=24)


@dataclass
class Look:
    """What a tick found."""

    unfinished: int = 0
    asked: int = 0
    finished: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Tasks that their provider has not known for a day."""
    problems: set[str] = field(default_factory=set)


class UnfinishedTasks:
    """Asks first for the tasks that were not asked for the longest. A new process begins anew."""

    def __init__(self) -> None:
        # Monotonic times by id of the row, and by provider.
        self._next: dict[str, float] = {}
        self._held: dict[str, float] = {}
        self._unknown: dict[str, str] = {}

    def look(self, pipeline: Pipeline, instance: dg.DagsterInstance) -> Look:
        """Raises CatalogError."""
        rows = pipeline.catalog.unfinished_tasks(UNCHANGED, _MOST)
        known = {row.id for row in rows}
        self._next = {key: at for key, at in self._next.items() if key in known}
        self._unknown = {key: task for key, task in self._unknown.items() if key in known}
        now = time.monotonic()
        due = sorted(
            (row for row in rows if self._next.get(row.id, 0.0) <= now),
            key=lambda row: self._next.get(row.id, 0.0),
        )
        found = Look(unfinished=len(rows))
        asked = asyncio.run(self._ask(pipeline, due, found))
        for row, task in asked:
            if not task.state.is_final:
                continue
            done = finish_task(pipeline, instance, row, task)
            if done and done.changed:
                found.finished.append(row.id)
        found.unknown = sorted(self._unknown.values())
        return found

    async def _ask(
        self, pipeline: Pipeline, rows: Sequence[TaskRow], found: Look
    ) -> list[tuple[TaskRow, Task]]:
        """Answers about the first of `rows` of each provider that is set up and not held."""
        answers: list[tuple[TaskRow, Task]] = []
        turn = asyncio.Semaphore(_SIDE_BY_SIDE)
        by_provider: dict[str, list[tuple[TaskRow, str | None]]] = {}
        for row in rows:
            name, model = providers.provider_of(row.provider, pipeline.settings)
            by_provider.setdefault(name, []).append((row, model))

        async def one(name: str, provider: Provider, row: TaskRow, model: str | None) -> None:
            async with turn:
                if self._held.get(name, 0.0) > time.monotonic():
                    return
                found.asked += 1
                self._next[row.id] = time.monotonic() + _pause(row)
                try:
                    answers.append((row, await provider.task(row.task_id, model)))
                    self._unknown.pop(row.id, None)
                except UnknownTask as error:
                    self._told_unknown(row, str(error))
                except ProviderError as error:
                    found.problems.add(f"{name}: {error}")
                    if isinstance(error, ProviderUnavailable):
                        pause = error.retry_after_seconds or TICK_SECONDS
                        self._held[name] = time.monotonic() + pause

        async with AsyncExitStack() as open_providers:
            waiting = []
            for name, theirs in by_provider.items():
                provider = providers.connect(pipeline.settings, name)
                if provider is None:
                    found.problems.add(f"there is no provider {name[:40]!r}")
                    continue
                await open_providers.enter_async_context(aclosing(provider))
                waiting += [one(name, provider, *pair) for pair in theirs[:ASKED_AT_ONCE]]
            try:
                async with asyncio.timeout(_SECONDS):
                    await asyncio.gather(*waiting)
            except TimeoutError:
                found.problems.add(f"no answer within {_SECONDS:g} s")
        return answers

    def _told_unknown(self, row: TaskRow, reason: str) -> None:
        age = _age(row)
        if age < _UNKNOWN_FOR or row.id in self._unknown:
            return
        self._unknown[row.id] = row.task_id
        logger.warning("row %r has not been finished for %s: %s", row.id, age, reason)


def _age(row: TaskRow) -> dt.timedelta:
    return dt.datetime.now(dt.UTC) - row.changed_at if row.changed_at else dt.timedelta()


def _pause(row: TaskRow) -> float:
    hours = _age(row).total_seconds() / 3600
    return next(pause for most, pause in _PAUSES if hours < most)


def in_words(found: Look) -> str:
    """For the tick's line in the Dagster UI."""
    parts = [f"{found.unfinished} tasks without an end, {found.asked} asked for"]
    parts += [f"{len(found.finished)} finished"] if found.finished else []
    if found.unknown:
        parts.append(f"unknown to their provider for a day: {_some(found.unknown)}")
    return "; ".join([*parts, *sorted(found.problems)])


def _some(names: Iterable[str], most: int = 10) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
