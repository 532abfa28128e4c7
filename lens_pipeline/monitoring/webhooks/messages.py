"""What is told of the event log: one message for each file that was made, saved or failed."""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from lens_pipeline.catalog.rows import Kind, MasterVideo, ScaledVideo
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import ORIGINALS, SAVED, kinds, primary
from lens_pipeline.derivatives.status import statuses_of_partitions
from lens_pipeline.event_log.changes import ChangeLog, Position
from lens_pipeline.event_log.history import RUN_ERRORS, DerivativeStatus, State
from lens_pipeline.event_log.reader import RecordedEvent
from lens_pipeline.monitoring.alerts.messages import page_link

_TYPES = ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION")
_SUBJECTS = {Kind.MASTER: "master", Kind.SCALED: "rendition"}
_FOLDERS = {Kind.MASTER: "master-videos", Kind.SCALED: "scaled-videos"}
# Facts of what was made, and of what failed.
_FILE = ("path", "bytes", "width", "height", "duration_seconds")
_ERROR = ("error", "error_class", "attempt")
_MOST_PARTITIONS = 200  # in one reading, beside those of its events


class WebhookMessage(BaseModel, frozen=True):
    id: str
    """The same however often the event is told."""
    type: str
    timestamp: dt.datetime
    data: dict[str, Any]

    @property
    def subject(self) -> tuple[str, str]:
        """Messages of one subject arrive in their order."""
        return self.data["kind"], self.data["id"]

    @property
    def event_id(self) -> int:
        return int(self.id.rpartition("_")[2])

    @property
    def body(self) -> str:
        return self.model_dump_json(exclude={"id"})


class MessageLog:
    """For one thread at a time. Methods raise SQLAlchemyError, `read` also CatalogError."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        originals = {original.asset: kind for kind, original in ORIGINALS.items()}
        self._kinds = {primary(kind).asset: kind for kind in kinds()} | originals
        self._originals = originals.keys()
        self._changes = ChangeLog(pipeline.endpoints.dagster_url, self.assets, _TYPES)
        # Assets and partitions: read and not told yet. The end of a run is read once.
        self._touched: set[tuple[str, str]] = set()

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(self._kinds)

    def close(self) -> None:
        self._changes.close()

    def latest(self) -> Position:
        return self._changes.latest()

    def before(self, moment: dt.datetime) -> Position:
        return self._changes.before(moment)

    def read(self, after: Position, limit: int) -> tuple[list[WebhookMessage], Position, bool]:
        """Messages of up to `limit` events of each asset, and whether there are more.

        Of rows that are gone nothing is told: nothing of them can be had.
        """
        changes = self._changes.read(after, limit)
        for asset, keys in changes.touched.items():
            self._touched.update((asset, key) for key in keys)
        made = set(changes.materialized)
        ids = made.union(changes.failed)
        events = self._pipeline.log.events(ids) if ids else []
        page = {(event.asset, event.key) for event in events}
        page.update(islice(self._touched, _MOST_PARTITIONS))
        statuses = self._statuses(page)
        told = []
        for event in events:
            if event.facts.get("adopted"):
                continue  # it was there before
            if event.asset in self._originals:
                if event.id in made and event.facts.get("kept") == SAVED:
                    told.append(self._saved(event))
            elif status := statuses.get((event.asset, event.key)):
                state = State.READY if event.id in made else _failure(event, status)
                if state:
                    told.append(self._outcome(event, status, state))
        told += [self._crash(one) for one in statuses.values() if one.error_class in RUN_ERRORS]
        self._name(told)
        self._touched -= page
        if not self._touched:
            return told, changes.position, changes.more
        # Of runs that ended some are still to be told: a process that is killed reads them again.
        return told, replace(changes.position, ends=after.ends), True

    def _statuses(self, page: Iterable[tuple[str, str]]) -> dict[tuple[str, str], DerivativeStatus]:
        """Of partitions with a row."""
        wanted: dict[str, list[str]] = {}
        for asset, key in page:
            wanted.setdefault(asset, []).append(key)
        found = statuses_of_partitions(self._pipeline, wanted)
        return {(status.asset, status.id): status for status in found if status.owner}

    def _saved(self, event: RecordedEvent) -> WebhookMessage:
        kind, user = self._kinds[event.asset], event.facts.get("user_id")
        owner = DerivativeStatus(event.asset, event.key, kind.value, user_id=user)
        return self._message("original.saved", event, owner, "saved")

    def _outcome(
        self, event: RecordedEvent, status: DerivativeStatus, state: State
    ) -> WebhookMessage:
        subject = _SUBJECTS.get(self._kinds[event.asset], "generation")
        name = f"{subject}.{'ready' if state is State.READY else 'failed'}"
        return self._message(name, event, status, state)

    def _crash(self, status: DerivativeStatus) -> WebhookMessage:
        """Of a run that failed or was cancelled before it recorded anything."""
        facts = {"error": status.error, "error_class": status.error_class}
        facts |= {"attempt": status.attempts, "at": dt.datetime.now(dt.UTC)}
        run_id = status.run_id or ""
        event = RecordedEvent(status.event_id or 0, status.asset, status.id, run_id, facts)
        return self._outcome(event, status, status.state)

    def _message(
        self, name: str, event: RecordedEvent, owner: DerivativeStatus, state: str
    ) -> WebhookMessage:
        kind = self._kinds[event.asset]
        told = _FILE if state in (State.READY, "saved") else _ERROR
        path = f"api/generations/{event.key}"
        file = "file" if event.asset in self._originals else event.asset
        if kind in _FOLDERS:
            project = quote(owner.project_id or "", safe="")
            path, file = f"api/projects/{project}/{_FOLDERS[kind]}/{event.key}", "video"
        url = page_link(self._pipeline.settings, path)
        data = {
            "id": event.key,
            "kind": kind.value,
            "asset": event.asset,
            "status": state,
            "user_id": owner.user_id,
            "project_id": owner.project_id,
            "run_id": event.run_id,
            "url": url,
            "file_url": f"{url}/{file}" if told is _FILE else None,
            **{fact: event.facts.get(fact) if fact in told else None for fact in _FILE + _ERROR},
        }
        # Event ids begin anew with a new database, and the scheme allows no full stop.
        id_ = f"msg_{event.run_id.replace('-', '')}_{event.id}"
        return WebhookMessage(id=id_, type=name, timestamp=event.facts["at"], data=data)

    def _name(self, told: Sequence[WebhookMessage]) -> None:
        """Add what rows of projects tell of themselves."""
        for kind in _FOLDERS:
            facts = [message.data for message in told if message.data["kind"] == kind]
            ids = {data["id"] for data in facts}
            rows = self._pipeline.catalog.finished(kind, ids) if ids else {}
            for data in facts:
                row = rows.get(data["id"])
                if isinstance(row, MasterVideo):
                    data["name"] = row.name
                elif isinstance(row, ScaledVideo):
                    data["master_id"] = row.master_id


def _failure(event: RecordedEvent, status: DerivativeStatus) -> State | None:
    """None: it takes nothing away, as the last good one is still served."""
    if status.state is State.READY and event.id > (status.event_id or 0):
        return None
    is_last = status.state is State.DEAD and status.event_id == event.id
    return State.DEAD if is_last or event.facts.get("permanent") else State.FAILED
