"""Tasks whose webhook has not come: the provider is asked, within its limits."""

import asyncio
import datetime as dt
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline import providers
from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.catalog.provider_tasks import TaskRow
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.engine.finished_tasks import finish_task
from lens_pipeline.providers.models import (
    Limits,
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
# Other sensors wait for a tick: of each answer, and of the whole tick.
_ANSWER_SECONDS, _TICK_MOST_SECONDS = 4.0, 15.0
# Between two looks at all rows, and what the others look at again: rows commit late.
_ALL_SECONDS, _OVERLAP = 3600.0, dt.timedelta(minutes=5)
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
        # Of the last questions: two ticks may ask within less time than lies between them.
        self._asked: dict[str, deque[float]] = {}
        self._unknown: dict[str, str] = {}
        self._rows: dict[str, TaskRow] = {}
        # Rows that changed before it were looked at; all are once an hour, as times may be wrong.
        self._until: dt.datetime | None = None
        self._all_at = float("-inf")

    def look(self, pipeline: Pipeline, instance: dg.DagsterInstance) -> Look:
        """Raises CatalogError."""
        self._read_rows(pipeline)
        found = Look(unfinished=len(self._rows))
        now = time.monotonic()
        due = sorted(
            (row for row in self._rows.values() if self._next.get(row.id, 0.0) <= now),
            key=lambda row: self._next.get(row.id, 0.0),
        )
        for row, task in asyncio.run(self._ask(pipeline, due, found)):
            if task.state.is_final:
                self._finish(pipeline, instance, row, task, found, until=now + _TICK_MOST_SECONDS)
        found.unknown = sorted(self._unknown.values())
        return found

    def _read_rows(self, pipeline: Pipeline) -> None:
        until = pipeline.catalog.now() - UNCHANGED
        is_all = time.monotonic() - self._all_at > _ALL_SECONDS
        since = None if is_all or self._until is None else self._until - _OVERLAP
        rows = pipeline.catalog.unfinished_tasks(since, until, self._rows, _MOST)
        self._rows = {row.id: row for row in rows}
        self._until = until
        if is_all:
            self._all_at = time.monotonic()
        self._next = {key: at for key, at in self._next.items() if key in self._rows}
        self._unknown = {key: task for key, task in self._unknown.items() if key in self._rows}

    def _finish(
        self,
        pipeline: Pipeline,
        instance: dg.DagsterInstance,
        row: TaskRow,
        task: Task,
        found: Look,
        until: float,
    ) -> None:
        """One for which the tick has no time left has its turn at the next; an error is its own."""
        if time.monotonic() > until:
            self._next.pop(row.id, None)
            return
        try:
            done = finish_task(pipeline, instance, row, task)
        except (CatalogError, SQLAlchemyError) as error:
            found.problems.add(f"row {row.id!r}: {error}")
            return
        if done and done.changed:
            found.finished.append(row.id)

    async def _ask(
        self, pipeline: Pipeline, rows: Sequence[TaskRow], found: Look
    ) -> list[tuple[TaskRow, Task]]:
        """Answers about the first of `rows` of each provider that is set up and not held."""
        by_provider: dict[str, list[tuple[TaskRow, str | None]]] = {}
        for row in rows:
            name, model = providers.provider_of(row.provider, pipeline.settings)
            by_provider.setdefault(name, []).append((row, model))
        answers: list[tuple[TaskRow, Task]] = []
        async with asyncio.TaskGroup() as group:
            for name, theirs in by_provider.items():
                if name not in providers.configured(pipeline.settings):
                    found.problems.add(f"{len(theirs)} are of {name[:40]!r}, which is not set up")
                    continue
                limits = Limits(attempts=1, total_seconds=_ANSWER_SECONDS)
                provider = providers.connect(pipeline.settings, name, limits)
                if provider is not None:
                    some = theirs[:ASKED_AT_ONCE]
                    group.create_task(self._ask_one(name, provider, some, found, answers))
        return answers

    async def _ask_one(
        self,
        name: str,
        provider: Provider,
        rows: Sequence[tuple[TaskRow, str | None]],
        found: Look,
        answers: list[tuple[TaskRow, Task]],
    ) -> None:
        turn = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def ask(row: TaskRow, model: str | None) -> None:
            async with turn:
                if self._held.get(name, 0.0) > time.monotonic():
                    return
                found.asked += 1
                await self._wait(name)
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

        async with aclosing(provider):
            await asyncio.gather(*(ask(*pair) for pair in rows))

    async def _wait(self, name: str) -> None:
        """No longer than until ASKED_AT_ONCE questions in TICK_SECONDS are kept to."""
        asked = self._asked.setdefault(name, deque(maxlen=ASKED_AT_ONCE))
        now = time.monotonic()
        at = max(now, asked[0] + TICK_SECONDS) if len(asked) == ASKED_AT_ONCE else now
        asked.append(at)
        await asyncio.sleep(at - now)

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
