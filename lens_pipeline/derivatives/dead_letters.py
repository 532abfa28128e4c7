"""Dead letters: derivatives that nothing automatic will make, and why. It only reads."""

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import replace

from lens_pipeline.catalog.rows import Generation, Row
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import assess, describe, usable
from lens_pipeline.event_log.history import DerivativeStatus, State

# A source may hold a whole picture (`data:`).
_SOURCE_CHARACTERS = 200


def counted(number: int) -> str:
    return "1 dead letter" if number == 1 else f"{number} dead letters"


def outdated_letters(pipeline: Pipeline) -> list[DerivativeStatus]:
    """What is outdated and could not be made anew."""

    def failed(status: DerivativeStatus) -> DerivativeStatus | None:
        remake = status.remake
        return remake if remake and remake.error_class else None

    found = [
        _letters(pipeline, derivative, failed) for derivative in registry.switched_on(pipeline)
    ]
    return describe(pipeline, [letter for letters in found for letter in letters])


def dead_letters(pipeline: Pipeline) -> list[DerivativeStatus]:
    """Everything given up on, and every finished row that cannot be used."""
    invalid = [
        DerivativeStatus(
            "", row.id, "row", state=State.DEAD, error_class="InvalidRow",
            facts={"error": row.reason},
        )
        for row in pipeline.catalog.invalid()
    ]  # fmt: skip
    return [*describe(pipeline, given_up(pipeline)), *invalid]


def oldest_dead_letters(pipeline: Pipeline) -> list[DerivativeStatus]:
    """Oldest first; rows that cannot be used have no time and come last."""
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    return sorted(dead_letters(pipeline), key=lambda letter: letter.at or last)


def given_up(pipeline: Pipeline) -> list[DerivativeStatus]:
    """Without rows that cannot be used, and without facts of events."""
    return [
        status
        for derivative in registry.switched_on(pipeline)
        for status in dead_of(pipeline, derivative)
    ]


def why_not(pipeline: Pipeline, row_id: str) -> str | None:
    """None: there is no such row."""
    return "; ".join(pipeline.catalog.problems(row_id)) or None


def dead_of(pipeline: Pipeline, derivative: Derivative) -> list[DerivativeStatus]:
    """As `given_up`, of one derivative."""
    return _letters(pipeline, derivative, lambda one: one if one.state is State.DEAD else None)


def _letters(
    pipeline: Pipeline,
    derivative: Derivative,
    letter: Callable[[DerivativeStatus], DerivativeStatus | None],
) -> list[DerivativeStatus]:
    """What `letter` makes of the statuses of partitions that ever failed."""
    keys = sorted(pipeline.log.troubled(derivative.asset))
    found = pipeline.catalog.finished(derivative.kind, keys)
    rows = usable([found[key] for key in keys if key in found])
    letters = map(letter, assess(pipeline, derivative, rows))
    return [
        replace(one, source=_source(row)) for row, one in zip(rows, letters, strict=True) if one
    ]


def _source(row: Row) -> str | None:
    """Without what is before `@` or behind `?`, which may be a secret."""
    if not isinstance(row, Generation) or not row.asset_url:
        return None
    scheme, separator, rest = row.asset_url.partition("//")
    if separator:
        host, slash, path = rest.partition("/")
        rest = f"{host.rpartition('@')[2]}{slash}{path}"
    shown = re.split("[?#]", f"{scheme}{separator}{rest}", maxsplit=1)[0]
    return shown[:_SOURCE_CHARACTERS]
