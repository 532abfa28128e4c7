"""Server-sent events: changes of derivatives, for many browsers."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lens_pipeline.core import postgres
from lens_pipeline.event_log.changes import Position
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.monitoring.feed import Batch, Feed
from lens_pipeline.web.auth.caller import Caller, CallerDep, KnownUntilDep
from lens_pipeline.web.errors import ApiError
from lens_pipeline.web.http.streaming import client_gone

router = APIRouter(tags=["events"])

PATH = "/api/events"

# Milliseconds after which a browser connects again.
_RETRY = b"retry: 2000\n\n"
_RESET = b"event: reset\ndata: {}\n"
# Proxies close silent connections.
_HEARTBEAT_SECONDS = 15.0
# Batches for a slow reader: several seconds of a busy site.
_MOST_WAITING = 100
_END_SECONDS = 0.2
# After a restart, all browsers connect at once.
_MISSED_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Message:
    """An event as it is sent, without its id."""

    user_id: str | None
    project_id: str | None
    text: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    before: Position
    position: Position
    messages: tuple[Message, ...] = ()
    is_reset: bool = False


def packet(batch: Batch) -> Packet:
    messages = (*map(_status, batch.statuses), *map(_progress, batch.progress))
    return Packet(batch.before, batch.position, messages, batch.is_reset)


def _status(status: DerivativeStatus) -> Message:
    names = ("attempts", "path", "error", "error_class", "run_id")
    fields = {name: getattr(status, name) for name in names}
    times = {
        name: moment.isoformat() if moment else None
        for name, moment in (("at", status.at), ("updated_at", status.finished_at))
    }
    return _message("status", status, {"status": status.state.value, **fields, **times})


def _progress(status: DerivativeStatus) -> Message:
    names = ("percent", "text", "stage", "seconds_left")
    fields = {name: getattr(status.progress, name, None) for name in names}
    return _message("progress", status, {"run_id": status.run_id, **fields})


def _message(event: str, about: DerivativeStatus, more: dict[str, object]) -> Message:
    names = ("kind", "asset", "id", "user_id", "project_id")
    data = {name: getattr(about, name) for name in names} | more
    # JSON escapes line breaks.
    text = f"event: {event}\ndata: {json.dumps(data)}\n"
    return Message(about.user_id, about.project_id, text.encode())


@dataclass(frozen=True, slots=True)
class View:
    caller: Caller
    user_id: str | None
    project_id: str | None

    def shows(self, message: Message) -> bool:
        if message.user_id is not None:
            wanted = self.project_id is None and self.user_id in (None, message.user_id)
            return wanted and self.caller.may_see_user(message.user_id)
        if message.project_id is not None:
            wanted = self.user_id is None and self.project_id in (None, message.project_id)
            return wanted and self.caller.may_see_project(message.project_id)
        # A row that is gone has no owner.
        is_whole = self.user_id is None and self.project_id is None
        return is_whole and self.caller.may_see_user("") and self.caller.may_see_project("")


class Subscription:
    """One open stream, used on the event loop alone."""

    def __init__(self, view: View, position: Position | None) -> None:
        self.view = view
        self.position = position
        """After the last packet; None: the feed has not begun."""
        self.closed = asyncio.Event()
        self._waiting: asyncio.Queue[Packet] = asyncio.Queue(_MOST_WAITING)

    def put(self, packet: Packet) -> None:
        """Never waits: a full queue is replaced by a reset."""
        if self._waiting.full():
            while not self._waiting.empty():
                self._waiting.get_nowait()
            packet = Packet(packet.before, packet.position, is_reset=True)
        self._waiting.put_nowait(packet)

    async def next(self, seconds: float) -> Packet | None:
        """None: there is none within `seconds`."""
        try:
            packet = await asyncio.wait_for(self._waiting.get(), seconds)
        except TimeoutError:
            return None
        self.position = packet.position
        return packet


class EventBroadcaster:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: set[Subscription] = set()
        self._is_closed = False
        self._position: Position | None = None
        self.missed_at_once = asyncio.Semaphore(_MISSED_AT_ONCE)

    def tell(self, batch: Batch) -> None:
        """Called on the thread of the feed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, packet(batch))

    def subscribe(self, view: View) -> Subscription:
        subscription = Subscription(view, self._position)
        self._open.add(subscription)
        if self._is_closed:
            subscription.closed.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._open.discard(subscription)

    def close(self) -> None:
        """End every open and later stream."""
        self._is_closed = True
        for subscription in self._open:
            subscription.closed.set()

    def _deliver(self, packet: Packet) -> None:
        self._position = packet.position
        for subscription in self._open:
            subscription.put(packet)


class EventStream(Response):
    """Ends when the client leaves, the server stops, or at `until` (seconds since 1970).

    Starlette's own streams end only with their body.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        broadcaster: EventBroadcaster,
        view: View,
        until: int | None,
        body: Callable[[Subscription], AsyncIterator[bytes]],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._broadcaster = broadcaster
        self._view = view
        self._until = until
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        subscription = self._broadcaster.subscribe(self._view)
        ways_to_end = [
            asyncio.ensure_future(self._send(subscription, send)),
            asyncio.ensure_future(client_gone(receive)),
            asyncio.ensure_future(subscription.closed.wait()),
        ]
        if self._until is not None:
            ways_to_end.append(asyncio.ensure_future(asyncio.sleep(self._until - time.time())))
        try:
            await asyncio.wait(ways_to_end, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._broadcaster.unsubscribe(subscription)
            for way in ways_to_end:
                way.cancel()
            outcomes = await asyncio.gather(*ways_to_end, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        # A stalled client would block this.
        with contextlib.suppress(TimeoutError):
            end = {"type": "http.response.body", "body": b"", "more_body": False}
            await asyncio.wait_for(send(end), _END_SECONDS)

    async def _send(self, subscription: Subscription, send: Send) -> None:
        async for chunk in self._body(subscription):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


@router.get(
    PATH,
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events, as they come."}},
)
async def events(
    request: Request,
    caller: CallerDep,
    until: KnownUntilDep,
    user_id: str | None = None,
    project_id: str | None = None,
    last_event_id: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """What changes, as server-sent events: `status`, `progress` and `reset`.

    `reset`: something may have been missed, read everything anew. With `Last-Event-ID`, what has
    changed since then comes first.
    """
    if user_id is not None and not caller.may_see_user(user_id):
        raise ApiError(403, "forbidden", "this token does not cover that user")
    if project_id is not None and not caller.may_see_project(project_id):
        raise ApiError(403, "forbidden", "this token does not cover that project")
    broadcaster: EventBroadcaster = request.app.state.broadcaster
    feed: Feed = request.app.state.feed

    async def body(subscription: Subscription) -> AsyncIterator[bytes]:
        yield _RETRY + await _greeting(broadcaster, feed, subscription, last_event_id)
        while True:
            packet = await subscription.next(_HEARTBEAT_SECONDS)
            text = _text(packet, subscription.view) if packet else _beat(subscription)
            if text:
                yield text

    return EventStream(broadcaster, View(caller, user_id, project_id), until, body)


async def _greeting(
    broadcaster: EventBroadcaster, feed: Feed, subscription: Subscription, resumed: str | None
) -> bytes:
    """Missed events, the progress of current runs, and the position."""
    view = subscription.view
    parts = []
    if resumed:
        async with broadcaster.missed_at_once:
            postgres.restart_deadline()
            batch = await run_in_threadpool(feed.missed, resumed)
        if batch is None:
            parts.append(_RESET + b"\n")
        else:
            parts.append(_text(packet(batch), view))
    parts += [m.text + b"\n" for m in map(_progress, feed.progress) if view.shows(m)]
    return b"".join(parts) + _beat(subscription)


def _beat(subscription: Subscription) -> bytes:
    """A comment, and the position, which browsers store without an event."""
    position = subscription.position
    return b": alive\n" + (_id(position) if position else b"\n")


def _text(packet: Packet, view: View) -> bytes:
    """The events that `view` shows; the last one has the position."""
    shown = [_RESET] if packet.is_reset else []
    shown += [message.text for message in packet.messages if view.shows(message)]
    if not shown:
        return b""
    return _id(packet.before).join(shown) + _id(packet.position)


def _id(position: Position) -> bytes:
    return f"id: {position}\n\n".encode()
