"""What `lens status` says without an id: where the files of each kind stand, and what runs."""

import asyncio
import datetime as dt
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from lens_pipeline import VERSION
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.cli.tables import print_table
from lens_pipeline.core.durations import spoken
from lens_pipeline.core.locks import LockSession, daemon_lock, projection_lock, queue_id
from lens_pipeline.core.ports import serves
from lens_pipeline.derivatives import originals, registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.release import Release
from lens_pipeline.derivatives.state_counts import StateCount, state_counts
from lens_pipeline.event_log.history import State
from lens_pipeline.monitoring.alerts.messages import dagster_link, page_link
from lens_pipeline.monitoring.probes.host import DiskMonitor, Space
from lens_pipeline.settings import Settings

_WAITING = (State.NONE, State.PROCESSING)


@dataclass(frozen=True, slots=True)
class Overview:
    counts: Mapping[Kind, Mapping[State, StateCount]]
    unsaved: Mapping[Kind, originals.UnsavedOriginals]
    addresses: Mapping[str, str]
    """Of the pages and the Dagster UI, by name."""
    silent: frozenset[str]
    """Names of those that do not answer on this machine."""
    is_daemon_alive: bool
    slots: Mapping[str, int]
    """Runs that the living workers take at once, by queue."""
    disk: Mapping[str, Space | str]
    masters_off: str | None
    """Why the site has none."""

    def oldest(self, kind: Kind) -> dt.datetime | None:
        found = (self.counts[kind].get(state) for state in _WAITING)
        return min((one.since for one in found if one and one.since), default=None)

    def to_json(self) -> dict[str, Any]:
        oldest = {kind: self.oldest(kind) for kind in self.counts}
        return {
            "version": VERSION,
            "counts": {
                kind.value: {state.value: _count(found, state) for state in State}
                for kind, found in self.counts.items()
            },
            "oldest_waiting": {
                kind.value: at and at.isoformat(timespec="seconds") for kind, at in oldest.items()
            },
            "originals_unsaved": {kind.value: asdict(one) for kind, one in self.unsaved.items()},
            "masters_off": self.masters_off,
            "addresses": self.addresses,
            "daemon": self.is_daemon_alive,
            "worker_slots": self.slots,
            "disk": {
                path: space._asdict() if isinstance(space, Space) else {"problem": space}
                for path, space in self.disk.items()
            },
        }

    def show(self) -> None:
        print(f"Lens Pipeline {VERSION}\n")
        rows = [
            [kind.value, *(f"{_count(found, state):,}" for state in State), _age(self.oldest(kind))]
            for kind, found in self.counts.items()
        ]
        print_table(["", *State, "oldest waiting"], rows, right=range(1, len(State) + 2))
        lines = {"originals": originals.in_words(self.unsaved)}
        for name, address in self.addresses.items():
            lines[name] = address + (" (does not answer)" if name in self.silent else "")
        if self.masters_off:
            lines["masters"] = self.masters_off.removeprefix("masters are ")
        lines["daemon"] = "runs" if self.is_daemon_alive else "does not run"
        slots = [f"{queue} {count} at once" for queue, count in self.slots.items() if count]
        lines["workers"] = ", ".join(slots) or "none"
        for path, space in self.disk.items():
            lines[f"disk {path}"] = _free(space)
        print()
        for name, line in lines.items():
            print(f"{name}: {line}")


def look(pipeline: Pipeline) -> Overview:
    """Raises CatalogError, sqlalchemy.exc.SQLAlchemyError."""
    settings = pipeline.settings
    with closing(LockSession(pipeline.endpoints.dagster_url)) as locks:
        is_daemon_alive, is_kept = map(locks.is_held, (daemon_lock(), projection_lock()))
    *_, (unsaved, _) = originals.count_unsaved(pipeline)
    addresses, silent = _addresses(settings)
    release, offered = Release.of(settings).id, pipeline.runs.slots()
    return Overview(
        {
            kind: state_counts(pipeline, registry.primary(kind), is_kept=is_kept)
            for kind in registry.kinds(registry.of_site(pipeline))
        },
        unsaved,
        addresses,
        silent,
        is_daemon_alive,
        {queue: offered.get(queue_id(queue, release), 0) for queue in registry.QUEUES},
        {str(path): space for path, space in asyncio.run(DiskMonitor(settings).look()).items()},
        pipeline.catalog.lack_of(Kind.MASTER),
    )


def _addresses(settings: Settings) -> tuple[dict[str, str], frozenset[str]]:
    """By name; and the names of those that do not answer: a public one may be served elsewhere."""
    api = settings.public_url or serves(settings.bind, settings.api_port, "/health/live")
    dagster = settings.dagster_public_url or serves(
        settings.bind, settings.dagster_port, "/server_info"
    )
    answers = {"library": api, "masters": api, "Dagster": dagster}
    pages = {name: page_link(settings, name) for name in ("library", "masters")}
    return pages | {"Dagster": dagster_link(settings, "")}, frozenset(
        name for name, is_there in answers.items() if not is_there
    )


def _count(found: Mapping[State, StateCount], state: State) -> int:
    return found[state].rows if state in found else 0


def _age(moment: dt.datetime | None) -> str:
    if moment is None:
        return ""
    return spoken(max((dt.datetime.now(dt.UTC) - moment).total_seconds(), 0.0))


def _free(space: Space | str) -> str:
    if isinstance(space, str):
        return space
    return f"{space.free / 1e9:,.1f} GB free ({space.percent:.0f} %)"
