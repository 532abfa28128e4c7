"""Judges from probes, backlog and disks which problems there are. Sends nothing."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.durations import spoken
from lens_pipeline.core.restarts import Restarts
from lens_pipeline.derivatives.dead_letters import counted
from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.event_log.counters import HourlyOutcome
from lens_pipeline.monitoring.alerts.messages import dagster_link, page_link
from lens_pipeline.monitoring.alerts.state import Problem
from lens_pipeline.monitoring.backlog import Backlog
from lens_pipeline.monitoring.probes.host import Space
from lens_pipeline.settings import Settings

DEAD = "dead_letters"
_SERVICES = frozenset({"database", "broker", "store", "daemon"})
_OLDEST, _UNSAVED, _SUCCESS, _WORKERS = "oldest", "originals", "success", "workers "
_LEAST_FILES = 50  # in an hour: of fewer, one failure is a large share


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known now, or None; services and workers are as in `ServiceHealth`."""

    services: Mapping[str, str | None]
    workers: Mapping[str, int] | None
    backlog: Backlog | None
    outcome: HourlyOutcome | None
    disks: Mapping[Path, Space | str]
    """As of `DiskMonitor.look`."""
    restarts: Mapping[str, Restarts] = field(default_factory=dict)
    """By process of `lens up` here."""
    webhooks: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with a target, by its name."""


def judge(seen: Seen, settings: Settings, now: dt.datetime) -> tuple[list[Problem], set[str]]:
    """All problems, and the keys of those of which nothing is known."""
    unknown: set[str] = {*_SERVICES - seen.services.keys()}
    problems = [
        *_services(seen.services, settings),
        *_disks(seen.disks, settings),
        *_crash_loops(seen.restarts, settings, now),
        *(Problem(name, f"{name} {wrong}") for name, wrong in seen.webhooks.items()),
    ]
    if seen.workers is None:
        unknown |= {_WORKERS + queue for queue in QUEUES}
    else:
        problems += _workers(seen.workers)
    if seen.backlog is None:
        unknown |= {_OLDEST, DEAD, _UNSAVED}
    else:
        problems += _oldest(seen.backlog, settings, now)
        problems += _dead(seen.backlog, settings)
        problems += _unsaved(seen.backlog, settings, now)
        unknown |= {_UNSAVED} if seen.backlog.unsaved is None else set()
    outcome = seen.outcome
    if outcome is None or (outcome.failed and outcome.made + outcome.failed < _LEAST_FILES):
        unknown.add(_SUCCESS)
    elif outcome.percent < settings.alert_success_percent:
        problems.append(_success(outcome, settings))
    return problems, unknown


def _services(services: Mapping[str, str | None], settings: Settings) -> Iterable[Problem]:
    for name, wrong in services.items():
        if wrong:
            link = dagster_link(settings, "deployment/daemons") if name == "daemon" else None
            is_predicate = wrong.startswith(("does", "cannot", "fails"))
            text = f"the {name} {wrong if is_predicate else f'is not well: {wrong}'}"
            yield Problem(name, text, link, is_held=True)


def _workers(workers: Mapping[str, int]) -> Iterable[Problem]:
    for queue, number in sorted(workers.items()):
        if not number:
            text = f"no worker of the queue {queue} answers: start `lens up` or `lens worker`"
            yield Problem(_WORKERS + queue, text, is_held=True)


def _disks(found: Mapping[Path, Space | str], settings: Settings) -> Iterable[Problem]:
    for path, space in found.items():
        if isinstance(space, str):
            yield Problem(f"disk {path}", f"the disk of {path} {space}", is_held=True)
            continue
        if space.percent < settings.alert_disk_free_percent:
            free = f"{space.free / 2**30:.1f} GiB ({space.percent:.0f} %) free"
            yield Problem(f"disk {path}", f"the disk of {path} is nearly full: {free}: make room")


def _crash_loops(
    restarts: Mapping[str, Restarts], settings: Settings, now: dt.datetime
) -> Iterable[Problem]:
    for name, one in sorted(restarts.items()):
        if one.is_loop(now.timestamp()):
            log = settings.resolved_home / "logs" / f"{name}.log"
            text = f"the process {name} ends again and again, {one.count} times by now: see {log}"
            yield Problem(f"restarts {name}", text)


def _oldest(backlog: Backlog, settings: Settings, now: dt.datetime) -> Iterable[Problem]:
    late = []
    for kind, moment in sorted(backlog.oldest.items()):
        limit = settings.alert_oldest_master_seconds
        if kind in (Kind.PHOTO, Kind.VIDEO):
            limit = settings.alert_oldest_seconds
        age = (now - moment).total_seconds() if moment else 0.0
        if age > limit:
            late.append(f"{kind.value} {spoken(age)}")
    if late and settings.enabled:
        text = f"finished rows wait for their derivatives; the oldest: {', '.join(late)}"
        yield Problem(_OLDEST, text, dagster_link(settings, "runs"))


def _dead(backlog: Backlog, settings: Settings) -> Iterable[Problem]:
    if backlog.letters:
        number = counted(len(backlog.letters))
        text = f"{number}: `lens dead-letters` lists them, `lens retry` tries anew"
        yield Problem(DEAD, text, page_link(settings, "library?status=dead"))


def _unsaved(backlog: Backlog, settings: Settings, now: dt.datetime) -> Iterable[Problem]:
    late = [
        f"{late.count:,} of {kind}s, the oldest after {spoken((now - late.since).total_seconds())}"
        for kind, late in ((kind, one.late) for kind, one in (backlog.unsaved or {}).items())
        if late.since
    ]
    if late and settings.enabled:
        text = (
            f"originals of new rows are not saved: {'; '.join(late)}; their links expire: see the"
            " runs, `lens backfill --originals` tries again"
        )
        yield Problem(_UNSAVED, text, dagster_link(settings, "runs"))


def _success(outcome: HourlyOutcome, settings: Settings) -> Problem:
    total = outcome.made + outcome.failed
    text = (
        f"{outcome.failed} of {total} files of the last hour failed, most often by"
        f" {outcome.main_error}: {outcome.percent:.1f} % ready,"
        f" {settings.alert_success_percent:g} % are expected"
    )
    return Problem(_SUCCESS, text, dagster_link(settings, "runs"))
