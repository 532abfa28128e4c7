"""What is a problem: from what is known of the pipeline now, and the limits that settings give."""

import datetime as dt
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lens_pipeline.alerts import links
from lens_pipeline.alerts.ledger import Problem
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.durations import spoken
from lens_pipeline.derivatives.dead_letters import counted
from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.monitoring.backlog import Backlog
from lens_pipeline.settings import Settings
from lens_pipeline.status.figures import HourlyOutcome

SERVICES = ("database", "broker", "store", "daemon")
OLDEST, SUCCESS, DEAD = "oldest", "success", "dead_letters"
_DISK = "disk "
_WORKERS = "workers "
# Of fewer files in an hour, one that fails is no share to speak of.
_LEAST_FILES = 50
_GENERATIONS = (Kind.PHOTO, Kind.VIDEO)


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that we write to."""

    path: Path
    free_bytes: int
    total_bytes: int

    @property
    def free_percent(self) -> float:
        return 100 * self.free_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known now; None: it is not."""

    services: Mapping[str, str | None]
    """Of each of `SERVICES` that is known: what is wrong with it, None if nothing."""
    workers: Mapping[str, int] | None
    """That answer, by queue."""
    backlog: Backlog | None
    outcome: HourlyOutcome | None
    disks: Sequence[Disk]


def disks(settings: Settings) -> list[Disk]:
    """The file systems of LENS_HOME, the scratch files and a store of files, each once."""
    paths = [settings.resolved_home, settings.scratch]
    store = urlsplit(settings.resolved_store_url)
    if store.scheme == "file":
        paths.append(Path(unquote(store.path)))
    found: dict[int, Disk] = {}
    for path in paths:
        if path.exists():
            usage = shutil.disk_usage(path)
            # What root alone may use is not free for us.
            total = usage.used + usage.free
            found.setdefault(path.stat().st_dev, Disk(path, usage.free, total))
    return list(found.values())


def judge(seen: Seen, settings: Settings, now: dt.datetime) -> tuple[list[Problem], set[str]]:
    """Every problem there is, and the keys of which it cannot be said."""
    unknown: set[str] = {*SERVICES} - seen.services.keys()
    problems = [*_services(seen.services, settings), *_disks(seen.disks, settings)]
    if seen.workers is None:
        unknown |= {_WORKERS + queue for queue in QUEUES}
    else:
        problems += _workers(seen.workers)
    if seen.backlog is None:
        unknown |= {OLDEST, DEAD}
    else:
        problems += _oldest(seen.backlog, settings, now)
        problems += _dead(seen.backlog, settings)
    if seen.outcome is None or _is_too_few(seen.outcome):
        # With too few a problem of the hour before is not over.
        unknown.add(SUCCESS)
    elif seen.outcome.percent < settings.alert_success_percent:
        problems.append(_success(seen.outcome, settings))
    return problems, unknown


def _services(services: Mapping[str, str | None], settings: Settings) -> Iterable[Problem]:
    for name, wrong in services.items():
        if wrong:
            where = links.dagster(settings, "deployment/daemons") if name == "daemon" else None
            yield Problem(name, f"the {name} {_predicate(wrong)}", where, is_held=True)


def _predicate(wrong: str) -> str:
    """A probe's finding as what follows its service's name."""
    begins_with_verb = wrong.startswith(("does", "cannot", "fails"))
    return wrong if begins_with_verb else f"is not well: {wrong}"


def _workers(workers: Mapping[str, int]) -> Iterable[Problem]:
    for queue, number in sorted(workers.items()):
        if not number:
            text = f"no worker of the queue {queue} answers: start `lens up` or `lens worker`"
            yield Problem(_WORKERS + queue, text, is_held=True)


def _disks(found: Iterable[Disk], settings: Settings) -> Iterable[Problem]:
    for disk in found:
        if disk.free_percent < settings.alert_disk_free_percent:
            text = (
                f"the disk of {disk.path} is nearly full: {disk.free_bytes / 2**30:.1f} GiB"
                f" ({disk.free_percent:.0f} %) free: make room"
            )
            yield Problem(f"{_DISK}{disk.path}", text)


def _oldest(backlog: Backlog, settings: Settings, now: dt.datetime) -> Iterable[Problem]:
    if not settings.enabled:
        return
    late = []
    for kind, moment in sorted(backlog.oldest.items()):
        is_generation = kind in _GENERATIONS
        limit = (
            settings.alert_oldest_seconds if is_generation else settings.alert_oldest_master_seconds
        )
        age = (now - moment).total_seconds() if moment else 0.0
        if age > limit:
            late.append(f"{kind.value} {spoken(age)}")
    if late:
        text = f"finished rows wait for their derivatives; the oldest: {', '.join(late)}"
        yield Problem(OLDEST, text, links.dagster(settings, "runs"))


def _dead(backlog: Backlog, settings: Settings) -> Iterable[Problem]:
    marks = frozenset(letter.mark for letter in backlog.letters)
    if marks:
        text = f"{counted(len(marks))}: `lens dead-letters` lists them, `lens retry` tries anew"
        yield Problem(DEAD, text, links.pages(settings, "library?status=dead"), marks=marks)


def _is_too_few(outcome: HourlyOutcome) -> bool:
    return outcome.failed > 0 and outcome.made + outcome.failed < _LEAST_FILES


def _success(outcome: HourlyOutcome, settings: Settings) -> Problem:
    total = outcome.made + outcome.failed
    text = (
        f"{outcome.failed} of {total} files of the last hour failed, most often by"
        f" {outcome.main_error}:"
        f" {outcome.percent:.1f} % ready, {settings.alert_success_percent:g} % are to be"
    )
    return Problem(SUCCESS, text, links.dagster(settings, "runs"))
