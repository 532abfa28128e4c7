"""From the provider's webhook to the preview, beside the polling worker that the pipeline replaces.

A local server plays the provider: it knows every task as done, and serves the photos. The webhook
finishes the row, which is all that the poller sees. The pipeline's time begins when the webhook is
sent, the poller's a little later with the finished row; they end as in `latency`.
"""

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import numpy as np
import sqlalchemy as sa

from benchmarks.bare import bare_worker
from benchmarks.latency import Poller
from benchmarks.photos import jpegs
from benchmarks.running_stack import USER, RunningStack, running_stack
from lens_pipeline.providers.kie import signature

_ROWS, _QUICK_ROWS = 30, 8
_EVERY_SECONDS = 4.0
_CONCURRENCY = 2
_PREFIX = "webhook-"
_FILES = 10
_EDGE = 1024
_API_KEY, _WEBHOOK_KEY = "key-of-benchmark", "secret-of-benchmark"


class _Provider(BaseHTTPRequestHandler):
    """Answers for each task with one of the photos, whose bytes it serves."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    files: Sequence[Path] = ()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/api/v1/jobs/recordInfo":
            (task_id,) = parse_qs(parts.query)["taskId"]
            self._send("application/json", json.dumps(self._task(task_id)).encode())
        else:
            number = int(parts.path.rpartition("/")[2])
            self._send("image/jpeg", self.files[number].read_bytes())

    def _task(self, task_id: str) -> dict[str, object]:
        number = int(task_id.removeprefix(_PREFIX)) % len(self.files)
        url = f"http://{self.headers['Host']}/files/{number}"
        result = json.dumps({"resultUrls": [url]})
        return {"code": 200, "data": {"taskId": task_id, "state": "success", "resultJson": result}}

    def _send(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the benchmark's output clean."""


@contextmanager
def _provider(files: Sequence[Path]) -> Iterator[str]:
    """Yields the address of a provider of these photos."""
    handler = type("Handler", (_Provider,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def run(quick: bool = False) -> dict[str, float]:
    """`webhook_p50_vs_poller`: 0.5 means half the poller's median."""
    rows = _QUICK_ROWS if quick else _ROWS
    files = jpegs(_FILES, _EDGE, _EDGE)
    with _provider(files) as url:
        variables = {
            "LENS_KIE_API": url,
            "LENS_KIE_API_KEY": _API_KEY,
            "LENS_KIE_WEBHOOK_KEY": _WEBHOOK_KEY,
            "LENS_FETCH_ALLOW_HOSTS": "127.0.0.1",
        }
        with running_stack(variables) as stack:
            stack.warm_up(stack.store_files(files))
            ids = [f"{_PREFIX}{index}" for index in range(rows)]
            with bare_worker(stack.pipeline, _CONCURRENCY) as worker:
                poller = Poller(worker, stack.application, _PREFIX)
                with poller.polling():
                    sent = _deliver_steadily(stack, ids)
                    stack.await_previews(ids)
                    poller.await_all(ids)
            made = stack.materialized_at(ids)
    ours = float(np.median([(made[key] - sent[key]).total_seconds() for key in ids]))
    theirs = float(np.median(list(poller.latencies.values())))
    return {
        "webhook_p50_vs_poller": ours / theirs,
        "webhook_p50_seconds": ours,
        "webhook_p50_poller_seconds": theirs,
    }


def _deliver_steadily(stack: RunningStack, ids: Sequence[str]) -> dict[str, dt.datetime]:
    """Let one task after the other be done; returns when each webhook was sent."""
    sent: dict[str, dt.datetime] = {}
    with stack.application.begin() as connection:
        connection.execute(_GENERATING, [{"id": key, "user": USER} for key in ids])
    started = time.monotonic()
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.settings.api_port}") as client:
        for index, key in enumerate(ids):
            time.sleep(max(0.0, started + index * _EVERY_SECONDS - time.monotonic()))
            timestamp = str(int(time.time()))
            headers = {
                "X-Webhook-Timestamp": timestamp,
                "X-Webhook-Signature": signature(_WEBHOOK_KEY, key, timestamp),
            }
            sent[key] = dt.datetime.now(dt.UTC)
            answer = client.post("/api/kie/webhook", json={"taskId": key}, headers=headers)
            answer.raise_for_status()
    return sent


_GENERATING = sa.text(
    "INSERT INTO generations (id, user_id, type, status, task_id, created_at, updated_at)"
    " VALUES (:id, :user, 'photo', 'generating', :id, clock_timestamp(), clock_timestamp())"
)
