"""Dead letters: what was given up on and why, and how it is tried again."""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from lens_pipeline.catalog.rows import Generation, Kind, Row
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import Assessed, assess, usable
from lens_pipeline.event_log.history import Outcome, Standing, State
from lens_pipeline.event_log.tags import OUTCOME_TAG

# What failures mean that left no words behind, by error class.
EXPLAINED = {
    "Canceled": "its run was cancelled",
    "RunFailed": "its run ended without a word about it: see the run's log",
}
# Of a source, which may hold a whole picture (`data:`).
_SOURCE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Letter:
    """A derivative that nothing automatic will make."""

    id: str
    kind: str
    error: str
    error_class: str
    attempts: int
    run_id: str | None
    source: str | None = None
    """A generation's file: its key in the store, or its URL without what may be secret."""


@dataclass(frozen=True, slots=True)
class Unattended:
    """A dead letter that nobody has done anything about, and since when it is one."""

    id: str
    kind: str
    error_class: str
    since: dt.datetime | None
    """None: its row can never be used, and has no history."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A derivative that was given up on."""

    kind: Kind
    asset: str
    id: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Report:
    """Where one derivative of one id stands, for people."""

    id: str
    kind: Kind
    asset: str
    state: State
    path: str | None
    error: str | None
    error_class: str | None
    attempts: int
    run_id: str | None
    waits: str | None
    """What it waits for before it is made."""
    progress: str | None
    """How far the run is that makes it."""


def counted(number: int) -> str:
    """So many dead letters, in words for people."""
    return "1 dead letter" if number == 1 else f"{number} dead letters"


def dead_letters(pipeline: Pipeline) -> list[Letter]:
    """Everything given up on, and every finished row that can never be processed."""
    letters = [
        Letter(
            assessed.row.id,
            derivative.kind,
            explain(pipeline, assessed.standing) or "",
            assessed.standing.error_class or "",
            assessed.standing.attempts,
            assessed.standing.run_id,
            _source(assessed.row),
        )
        for derivative in registry.DERIVATIVES
        for assessed in _dead(pipeline, derivative)
    ]
    letters += [
        Letter(row.id, "row", row.reason, "InvalidRow", 0, None)
        for row in pipeline.catalog.invalid()
    ]
    return letters


def _source(row: Row) -> str | None:
    """What is behind `?` or before `@` may be a key of somebody's."""
    if not isinstance(row, Generation) or not row.asset_url:
        return None
    scheme, separator, rest = row.asset_url.partition("//")
    if separator:
        host, slash, path = rest.partition("/")
        rest = f"{host.rpartition('@')[2]}{slash}{path}"
    shown = re.split("[?#]", f"{scheme}{separator}{rest}", maxsplit=1)[0]
    return shown[:_SOURCE_CHARACTERS]


def unattended(pipeline: Pipeline) -> list[Unattended]:
    """All that `dead_letters` lists, oldest first; without the reasons, in a few queries a kind."""
    dead = given_up(pipeline)
    events = [one.standing.event_id for one in dead if one.standing.event_id]
    times = pipeline.log.times(events) if events else {}
    found = [
        Unattended(
            one.id,
            one.kind.value,
            one.standing.error_class or "",
            times.get(one.standing.event_id or 0),
        )
        for one in dead
    ]
    found += [Unattended(row.id, "row", "InvalidRow", None) for row in pipeline.catalog.invalid()]
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    return sorted(found, key=lambda letter: letter.since or last)


def given_up(pipeline: Pipeline) -> tuple[GivenUp, ...]:
    """Every derivative that was given up on, without the words about it."""
    return tuple(
        GivenUp(derivative.kind, derivative.asset, assessed.row.id, assessed.standing)
        for derivative in registry.DERIVATIVES
        for assessed in _dead(pipeline, derivative)
    )


def report(pipeline: Pipeline, generation_id: str) -> list[Report]:
    """Where each derivative of a finished row with this id stands; empty if there is none."""
    return [
        _report(pipeline, derivative, assessed)
        for derivative in registry.DERIVATIVES
        for row in pipeline.catalog.finished(derivative.kind, [generation_id]).values()
        for assessed in assess(pipeline, derivative, usable([row]))
    ]


def why_not(pipeline: Pipeline, generation_id: str) -> str | None:
    """Why the rows with an id have no derivative to speak of; None: there is no row."""
    return "; ".join(pipeline.catalog.problems(generation_id)) or None


def retry(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    ids: Iterable[str] | None,
    derivatives: Iterable[Derivative] | None = None,
) -> dict[Derivative, list[str]]:
    """Forget earlier failures of `ids` (None: of every dead letter), so that they are tried again.

    Returns the ids that had failed, by derivative.
    """
    revived: dict[Derivative, list[str]] = {}
    for derivative in derivatives or registry.DERIVATIVES:
        if ids is None:
            candidates = _dead(pipeline, derivative)
        else:
            rows = pipeline.catalog.finished(derivative.kind, ids).values()
            candidates = assess(pipeline, derivative, usable(list(rows)))
        failed = [a for a in candidates if a.standing.state in (State.FAILED, State.DEAD)]
        for assessed in failed:
            _revive(instance, derivative, assessed)
        if failed:
            revived[derivative] = [assessed.row.id for assessed in failed if not assessed.waits]
    return revived


def explain(pipeline: Pipeline, standing: Standing) -> str | None:
    """The reason of a failure in words."""
    return explain_all(pipeline, [standing])[0]


def explain_all(pipeline: Pipeline, standings: Sequence[Standing]) -> list[str | None]:
    """The reason of each failure in words, in one query."""
    in_the_log = [
        standing.event_id
        for standing in standings
        if standing.event_id and standing.error_class and standing.error_class not in EXPLAINED
    ]
    details = pipeline.log.details(in_the_log) if in_the_log else {}
    return [_words(standing, details) for standing in standings]


def _words(standing: Standing, details: Mapping[int, Mapping[str, object]]) -> str | None:
    if standing.error_class is None or standing.event_id is None:
        return None
    if standing.error_class in EXPLAINED:
        return EXPLAINED[standing.error_class]
    return str(details[standing.event_id].get("error", ""))


def _dead(pipeline: Pipeline, derivative: Derivative) -> list[Assessed]:
    keys = sorted(pipeline.log.troubled(derivative.asset))
    found = pipeline.catalog.finished(derivative.kind, keys)
    rows = [found[key] for key in keys if key in found]
    return [a for a in assess(pipeline, derivative, usable(rows)) if a.standing.state is State.DEAD]


def _report(pipeline: Pipeline, derivative: Derivative, assessed: Assessed) -> Report:
    standing = assessed.standing
    path = None
    if standing.state is State.READY:
        path = derivative.object_key(assessed.row, assessed.revision)
    return Report(
        id=assessed.row.id,
        kind=derivative.kind,
        asset=derivative.asset,
        state=standing.state,
        path=path,
        error=explain(pipeline, standing),
        error_class=standing.error_class,
        attempts=standing.attempts,
        run_id=standing.run_id,
        waits=assessed.waits if standing.state in (State.NONE, State.FAILED) else None,
        progress=_progress(pipeline, standing),
    )


def _progress(pipeline: Pipeline, standing: Standing) -> str | None:
    if standing.state is not State.PROCESSING or standing.run_id is None:
        return None
    return pipeline.log.progress(standing.run_id)


def _revive(instance: dg.DagsterInstance, derivative: Derivative, assessed: Assessed) -> None:
    instance.report_runless_asset_event(
        dg.AssetObservation(
            asset_key=derivative.asset,
            partition=assessed.row.id,
            metadata={"retry": f"after {assessed.standing.error_class}"},
            tags={OUTCOME_TAG: Outcome.RETRY.value},
        )
    )
