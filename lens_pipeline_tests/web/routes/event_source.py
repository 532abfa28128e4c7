"""A browser's `EventSource`, as far as the tests need one."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx2 as httpx

from lens_pipeline_tests.support.site import eventually


@dataclass(frozen=True)
class Event:
    """One event as it arrived; `at` is by the monotonic clock."""

    name: str
    data: Any
    at: float


class EventSource:
    """Reads an event stream on a thread; `events` are those that have come so far."""

    def __init__(self, web: httpx.Client, last_id: str | None = None, **query: str) -> None:
        self.events: list[Event] = []
        self.last_id = last_id
        self.comments = 0
        self.ended = threading.Event()
        self.status: int | None = None
        self._opened = threading.Event()
        self._client = httpx.Client(base_url=web.base_url, timeout=60, headers=web.headers)
        headers = {"Last-Event-ID": last_id} if last_id else {}
        self._thread = threading.Thread(target=self._read, args=(query, headers), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._opened.wait(10), "the stream does not begin"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def named(self, name: str) -> list[Any]:
        return [event.data for event in self.events if event.name == name]

    def states(self, row_id: str) -> list[str]:
        """The states that were told of one id, each change once."""
        told = [data["status"] for data in self.named("status") if data["id"] == row_id]
        return [state for n, state in enumerate(told) if n == 0 or told[n - 1] != state]

    def await_event(self, matches: Callable[[Event], bool], seconds: float = 10) -> Event:
        def found() -> Event | None:
            return next((event for event in list(self.events) if matches(event)), None)

        return eventually(found, seconds, "the event", every=0.02)

    def await_state(self, row_id: str, state: str, seconds: float = 10) -> Event:
        return self.await_event(
            lambda e: e.name == "status" and (e.data["id"], e.data["status"]) == (row_id, state),
            seconds,
        )

    def _read(self, query: Mapping[str, str], headers: Mapping[str, str]) -> None:
        try:
            with self._client.stream("GET", "/api/events", params=query, headers=headers) as answer:
                self.status = answer.status_code
                name, data, noted = "message", "", self.last_id
                for line in answer.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "":
                        self.comments += line.startswith(":")
                    if line == "":
                        # By the standard, an id counts also without data.
                        self.last_id = noted
                        if data:
                            self.events.append(Event(name, json.loads(data), time.monotonic()))
                        self._opened.set()
                        name, data = "message", ""
                    elif field == "event":
                        name = value
                    elif field == "data":
                        data += value
                    elif field == "id":
                        noted = value
        except httpx.HTTPError:
            pass
        finally:
            self.ended.set()
            self._opened.set()
